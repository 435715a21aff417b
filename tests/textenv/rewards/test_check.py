"""A reward is called once with the whole batch, and its answer is checked."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from textenv.episode import Episode
from textenv.rewards import RewardError, resolve_reward, score_episodes


@pytest.mark.parametrize(
    "answer",
    [
        [1, 2.0, 0],
        (True, 2, False),
        np.array([1, 2, 0]),
        np.array([1, 2, 0], dtype=np.float16),
        torch.tensor([1.0, 2.0, 0.0], dtype=torch.bfloat16, requires_grad=True),
        torch.tensor([1, 2, 0]),
        [torch.tensor(1.0), np.float32(2), np.bool_(False)],
        [Fraction(1), np.array(2), np.int8(0)],
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_any_sequence_of_finite_real_numbers_is_an_answer(answer, make_episodes):
    scores = score_episodes(lambda episodes: answer, make_episodes("a", "b", "c"))
    assert scores.dtype == np.float64
    assert scores.shape == (3,)
    assert scores.tolist() == [1.0, 2.0, 0.0]


def test_the_whole_batch_is_scored_in_one_call(make_episodes):
    batches = []

    def remember(episodes):
        batches.append(list(episodes))
        return [0.0] * len(episodes)

    episodes = make_episodes("a", "b", "c")
    score_episodes(resolve_reward(remember), episodes)
    assert batches == [episodes]


def test_no_episodes_need_no_reward():
    def fails(episodes):
        raise AssertionError("called without episodes")

    assert score_episodes(fails, []).shape == (0,)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (10**400, "1000"),
        (None, "None"),
        ("1.0", "'1.0'"),
        (1j, "1j"),
        ([1.0], r"\[1.0\]"),
        (torch.tensor([1.0]), r"tensor\(\[1\.\]\)"),
        (torch.tensor(float("nan")), r"tensor\(nan\)"),
    ],
)
def test_a_score_that_is_no_finite_real_number_is_refused(value, shown, make_episodes):
    def odd(episodes):
        return [0.0, value]

    with pytest.raises(
        RewardError,
        match=rf"reward 'odd' scored episode 1 with {shown}.*, which is not a finite real number; "
        r"the episode has prompt 'Write: ' and response 'second'\.",
    ):
        score_episodes(resolve_reward(odd), make_episodes("first", "second"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"answered with None, a NoneType: return 2 numbers, one for each episode"),
        (0.5, r"answered with 0.5, a float: return 2 numbers"),
        ("ab", r"answered with 'ab', a str: return 2 numbers"),
        (b"ab", r"answered with b'ab', a bytes: return 2 numbers"),
        ({0: 1.0, 1: 2.0}, r"answered with \{.*\}, a dict: return 2 numbers"),
        ([1.0], r"answered with 1 scores for 2 episodes: return 2 numbers"),
        (np.ones(3), r"answered with 3 scores for 2 episodes: return 2 numbers"),
        (np.ones((2, 1)), r"answered with the shape \(2, 1\): return 2 numbers"),
        (torch.ones(2, 1), r"answered with the shape \(2, 1\): return 2 numbers"),
        (np.float64(1.0), r"answered with the shape \(\): return 2 numbers"),
        (torch.tensor(1.0), r"answered with the shape \(\): return 2 numbers"),
        (np.array([1j, 0]), r"scored episode 0 with 1j, which is not a finite real number"),
        (np.array(["1", "2"]), r"scored episode 0 with '1', which is not a finite real number"),
        (torch.tensor([0.0, torch.inf]), r"scored episode 1 with inf, which is not a finite"),
    ],
)
def test_an_answer_that_is_not_one_number_per_episode_is_refused(answer, message, make_episodes):
    def odd(episodes):
        return answer

    with pytest.raises(RewardError, match=rf"reward 'odd' {message}"):
        score_episodes(resolve_reward(odd), make_episodes("first", "second"))


def test_an_error_of_a_batch_reward_shows_the_first_episode(make_episodes):
    def broken(episodes):
        return {}["score"]

    with pytest.raises(
        RewardError,
        match=r"reward 'broken' raised KeyError: 'score'; it was given 2 episodes, "
        r"the first with prompt 'Write: ' and response 'first'\.",
    ) as caught:
        score_episodes(resolve_reward(broken), make_episodes("first", "second"))
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_of_a_pairwise_reward_shows_the_episode_at_fault(make_episodes):
    def inverse(prompt, response):
        return 1 / len(response)

    with pytest.raises(
        RewardError,
        match=r"reward 'inverse' raised ZeroDivisionError: division by zero; it was given "
        r"episode 1, with prompt 'Write: ' and response ''\.",
    ) as caught:
        score_episodes(resolve_reward(inverse), make_episodes("first", "", "third"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_long_text_is_shortened_in_errors(make_episodes):
    def broken(prompt, response):
        raise ValueError("no")

    with pytest.raises(RewardError, match=r"response 'x{78}…\.$"):
        score_episodes(resolve_reward(broken), make_episodes("x" * 1000))


@pytest.mark.parametrize("parameters", [1, 2])
def test_an_interruption_passes(parameters, make_episodes):
    def interrupted(*texts):
        raise KeyboardInterrupt

    reward = (
        (lambda episodes: interrupted())
        if parameters == 1
        else lambda prompt, response: interrupted()
    )
    with pytest.raises(KeyboardInterrupt):
        score_episodes(resolve_reward(reward), make_episodes("a"))


@pytest.mark.parametrize("change", ["sort", "reverse", "pop", "clear"])
def test_a_reward_cannot_change_the_order_of_its_episodes(change, make_episodes):
    def reward(episodes):
        getattr(episodes, change)(*([lambda e: e.response] if change == "sort" else []))
        return [len(episode.response) for episode in episodes]

    with pytest.raises(RewardError, match=r"scores have to be in their order.*sorted\(episodes\)"):
        score_episodes(reward, make_episodes("aaa", "b"))


def test_a_reward_may_sort_a_copy(make_episodes):
    episodes = make_episodes("aaa", "b")
    rank = lambda given: [sorted(given, key=lambda e: e.response).index(e) for e in given]  # noqa: E731
    assert score_episodes(rank, episodes).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["completions", "prompts", "answer"])
def test_lists_of_trl_that_a_reward_has_sorted_are_refused(name):
    def reward(prompts, completions, answer):
        {"prompts": prompts, "completions": completions, "answer": answer}[name].sort()
        completions[0] = completions[0].strip()  # which changes no order
        return [float(len(text)) for text in completions]

    rows = [("q", "bb ", "2"), ("p", "a", "1")]
    episodes = [
        Episode(prompt, text, np.arange(1), np.arange(2), "stop", {"answer": answer})
        for prompt, text, answer in rows
    ]
    with pytest.raises(RewardError, match=rf"changed the order of {name}.*sorted\({name}\)"):
        score_episodes(resolve_reward(reward), episodes)


@pytest.mark.parametrize(
    "answer", [torch.empty(2, device="meta"), torch.tensor([1.0, 0.0]).to_sparse()], ids=str
)
def test_tensors_without_readable_numbers_are_refused(answer, make_episodes):
    with pytest.raises(RewardError, match="whose numbers cannot be read: return 2 numbers"):
        score_episodes(lambda episodes: answer, make_episodes("a", "b"))
