from __future__ import annotations

import numpy as np
import pytest

from textenv.rewards import RewardError, resolve_reward, score_episodes, score_in_parts


def number_of_words(prompt: str, response: str) -> int:
    return len(response.split())


def always_nan(episodes):
    return [float("nan")] * len(episodes)


@pytest.mark.parametrize(
    "source",
    [
        {number_of_words: 2, "keyword(sea)": -0.5},
        [(number_of_words, 2), ("keyword(sea)", -0.5)],
        [[number_of_words, np.float32(2)], ["keyword(sea)", -0.5]],
    ],
    ids=["mapping", "tuples", "lists"],
)
def test_the_sum_of_weight_times_score(source, make_episodes):
    reward = resolve_reward(source)
    assert reward.name == "2*number_of_words + -0.5*keyword(sea)"
    assert score_episodes(reward, make_episodes("the sea", "land")).tolist() == [3.5, 2.0]


def test_sums_nest(make_episodes):
    reward = resolve_reward([({number_of_words: 1.0}, 3.0), (number_of_words, 1.0)])
    assert score_episodes(reward, make_episodes("a b")).tolist() == [8.0]


def test_an_error_names_the_part_at_fault(make_episodes):
    reward = resolve_reward({number_of_words: 1.0, always_nan: 0.0})
    with pytest.raises(RewardError, match=r"reward 'always_nan' scored episode 0 with nan"):
        score_episodes(reward, make_episodes("a"))


@pytest.mark.parametrize("source", [{}, []])
def test_an_empty_sum_is_refused(source):
    with pytest.raises(ValueError, match=r"reward is an empty sum: give at least one pair"):
        resolve_reward(source)


@pytest.mark.parametrize("weight", ["2", None, float("inf"), float("nan"), 1j])
def test_a_weight_that_is_no_finite_number_is_refused(weight):
    with pytest.raises(ValueError, match=r"the weight of reward 'length' is .*: give a finite"):
        resolve_reward([("length", weight)])


@pytest.mark.parametrize("source", [("haiku", 1.0), ["haiku", "length"], [("haiku",)]])
def test_parts_that_are_not_pairs_are_refused(source):
    with pytest.raises(TypeError, match=r"reward has the part .*, which is not a pair"):
        resolve_reward(source)


def same_name(factor):
    def words(prompt, response):
        return factor * number_of_words(prompt, response)

    return words


def test_the_parts_are_told_by_their_names_before_their_weights(make_episodes):
    reward = resolve_reward([(number_of_words, 2.0), ("keyword(sea)", -0.5)])
    scores, parts = score_in_parts(reward, make_episodes("the sea", "land"))
    assert scores.tolist() == [3.5, 2.0]
    assert {name: part.tolist() for name, part in parts.items()} == {
        "number_of_words": [2.0, 1.0],
        "keyword(sea)": [1.0, 0.0],
    }


def test_parts_of_the_same_name_are_numbered_by_their_places(make_episodes):
    reward = resolve_reward([(same_name(1), 1.0), ("length(2)", 0.0), (same_name(10), 3.0)])
    scores, parts = score_in_parts(reward, make_episodes("a b"))
    assert scores.tolist() == [62.0]
    assert {name: part.tolist() for name, part in parts.items()} == {
        "words 1": [2.0],
        "length(2)": [pytest.approx(2 / 3)],
        "words 3": [20.0],
    }


def test_a_reward_that_is_no_sum_has_no_parts(make_episodes):
    for reward in (number_of_words, "length(2)"):
        scores, parts = score_in_parts(resolve_reward(reward), make_episodes("a b"))
        assert len(scores) == 1 and parts == {}


def test_no_episodes_have_no_scores_in_parts():
    scores, parts = score_in_parts(resolve_reward({number_of_words: 1.0}), [])
    assert scores.shape == (0,) and parts["number_of_words"].shape == (0,)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_sum_that_no_float_holds_is_refused(make_episodes):
    reward = resolve_reward([(lambda prompt, response: 1e308, 10.0), (number_of_words, 1.0)])
    for score in (score_episodes, score_in_parts):
        with pytest.raises(RewardError, match=r"scored episode 0 with inf, which is not a finite"):
            score(reward, make_episodes("a"))
