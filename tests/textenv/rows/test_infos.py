"""Infos: what was scored, what was paid and why, as columns of all rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from textenv.rows.infos import column, everywhere, first_row, with_finals

END, Q = 0, 50  # the ids of "<end>" and "Q"


def length_of(factor):
    """Two such rewards have the same name."""

    def score(prompt, response):
        return factor * len(response)

    return score


SUM = [(length_of(1), 2.0), ("keyword(q)", -1.0), (length_of(10), 0.1)]
# The score is 2 · length − [it is the word "q"] + 0.1 · 10 · length.
STOPPED = {
    "score": 2.0,
    "score/score 1": 1.0,
    "score/keyword(q)": 1.0,
    "score/score 3": 10.0,
    "no_stop_penalty": 0.0,
}
NEVER_STOPPED = {
    "score": 6.0,
    "score/score 1": 2.0,
    "score/keyword(q)": 0.0,
    "score/score 3": 20.0,
    "no_stop_penalty": 0.5,
}
PENALISED = {"reward": SUM, "no_stop_penalty": 0.5, "max_new_tokens": 2}


def of_scores(details, row):
    """The entries of one row that belong to its score, and that count."""
    return {
        key: details[key][row]
        for key in details
        if key.startswith(("score", "no_stop_penalty")) and details[f"_{key}"][row]
    }


def test_the_single_environment_tells_score_parts_and_penalty(make_env, write):
    env = make_env(**PENALISED)
    for actions, wanted in (([Q, END], STOPPED), ([Q, Q], NEVER_STOPPED)):
        first, (_, value, ended, _, info) = write(env, actions)
        assert first[-1] == {} and ended
        assert {key: info[key] for key in wanted} == pytest.approx(wanted)
        assert value == pytest.approx(wanted["score"] - wanted["no_stop_penalty"])
        assert {type(info[key]) for key in wanted} == {float}


def test_step_scoring_tells_score_parts_and_penalty(mode, array, make_envs):
    env = make_envs(3, **PENALISED, array=array, autoreset_mode=mode)
    env.reset(seed=0)
    env.step(np.array([Q, Q, Q]))
    _, rewards, ended, _, infos = env.step(np.array([END, Q, END]))
    assert ended.all()
    details = infos["final_info"] if mode == AutoresetMode.SAME_STEP else infos
    for row, wanted in enumerate((STOPPED, NEVER_STOPPED, STOPPED)):
        assert of_scores(details, row) == pytest.approx(wanted)
        assert float(rewards[row]) == pytest.approx(wanted["score"] - wanted["no_stop_penalty"])
    if mode == AutoresetMode.SAME_STEP:
        assert of_scores({key: infos[key] for key in infos if "final" not in key}, 0) == {}


def test_only_the_rows_that_ended_have_entries(array, make_envs):
    env = make_envs(3, **PENALISED, array=array)
    env.reset(seed=0)
    *_, infos = env.step(np.array([Q, END, Q]))
    assert [bool(of_scores(infos, row)) for row in range(3)] == [False, True, False]
    *_, infos = env.step(np.array([END, Q, Q]))  # row 1 is reset
    assert [bool(of_scores(infos, row)) for row in range(3)] == [True, False, True]


def test_batch_scoring_tells_score_parts_and_penalty(array, make_envs, batch):
    env = make_envs(2, **PENALISED, array=array, **batch)
    env.reset(seed=0)
    env.step(np.array([Q, Q]))
    _, rewards, _, _, infos = env.step(np.array([END, Q]))
    for row, wanted in enumerate((STOPPED, NEVER_STOPPED)):
        assert of_scores(infos, row) == pytest.approx(wanted)
        paid = wanted["score"] - wanted["no_stop_penalty"]
        assert float(rewards[row]) == pytest.approx(paid)
        assert infos["token_rewards"][row].tolist() == pytest.approx([0.0, paid])


def test_without_a_penalty_or_a_sum_there_are_no_entries_of_them(driving, make_envs):
    env = make_envs(2, **driving)
    env.reset(seed=0)
    *_, infos = env.step(np.array([END, END]))
    assert set(of_scores(infos, 0)) == {"score"}
    env = make_envs(2, **driving, no_stop_penalty=-0.25, max_new_tokens=1)  # even one that pays
    env.reset(seed=0)
    _, rewards, _, _, infos = env.step(np.array([END, Q]))
    assert infos["no_stop_penalty"].tolist() == [0, -0.25]
    assert rewards.tolist() == pytest.approx((infos["score"] + [0, 0.25]).tolist())


# --- columns ------------------------------------------------------------------------------------


def test_a_column_has_its_values_at_the_rows_of_its_mask():
    mask = np.array([False, True, True])
    texts = column("text", mask, ["b", "c"])
    assert texts["text"].tolist() == [None, "b", "c"] and texts["_text"].tolist() == mask.tolist()
    numbers = column("number", mask, [2, 3], np.float64)
    assert numbers["number"].tolist() == [0.0, 2.0, 3.0] and numbers["number"].dtype == np.float64
    mask[:] = False
    assert texts["_text"].tolist() == [False, True, True]  # not the caller's own array


def test_a_column_that_counts_everywhere():
    infos = everywhere("values", torch.arange(6).reshape(3, 2))
    assert infos["values"].shape == (3, 2) and infos["_values"].tolist() == [True] * 3


def test_the_first_row_has_what_counts_there_as_plain_values():
    infos = column("number", np.array([True]), [2], np.int64)
    infos |= column("missing", np.array([False]), []) | column("text", np.array([True]), ["a"])
    assert first_row(infos) == {"number": 2, "text": "a"}
    assert type(first_row(infos)["number"]) is int


def test_what_belongs_to_ended_episodes_is_told_from_what_goes_on():
    ended = np.array([True, False, True])
    infos = column("kl", np.ones(3, bool), [1.0, 2.0, 3.0], np.float64)
    infos |= column("score", ended, [5.0, 6.0], np.float64)
    observation = {"input_ids": np.array([[1, 2], [3, 4], [5, 6]])}
    infos = with_finals(ended, infos, observation)
    observation["input_ids"][:] = 0  # rows that begin anew change the table
    assert [None if final is None else final["input_ids"].tolist() for final in infos["final_obs"]]
    assert infos["final_obs"][0]["input_ids"].tolist() == [1, 2]
    assert infos["final_obs"][1] is None
    assert infos["final_obs"][2]["input_ids"].tolist() == [5, 6]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == ended.tolist()
    assert infos["final_info"]["_kl"].tolist() == ended.tolist()
    assert infos["final_info"]["_score"].tolist() == ended.tolist()
    assert infos["_kl"].tolist() == [False, True, False] and "score" not in infos
