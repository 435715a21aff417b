"""Actions are checked and appended, and observations of numpy or torch are handed out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from textenv.arrays import Arrays, TokenObservation, to_numpy, to_tensor
from textenv.rows.token_table import TokenTable


def test_observations_are_copies_unless_views_are_asked_for(array, make_envs):
    for copy in (True, False):
        env = make_envs(1, array=array, copy=copy, prompts=["a"])
        first, _ = env.reset()
        env.step(np.array([60]))
        assert first["attention_mask"].sum() == (1 if copy else 2)
        assert (int(first["input_ids"][0, 1]) == 60) is not copy


@pytest.mark.parametrize("copy", [True, False])
def test_final_observations_are_kept_even_when_views_are_handed_out(array, copy, make_envs):
    env = make_envs(
        2, array=array, copy=copy, prompts=["ab"], autoreset_mode=AutoresetMode.SAME_STEP
    )
    env.reset()
    env.step(np.array([60, 61]))
    observation, _, _, _, infos = env.step(np.array([0, 62]))
    final = infos["final_obs"][0]
    assert infos["final_obs"][1] is None
    assert final["input_ids"].tolist() == [258, 60, 0, 0, 0, 0]  # "ab" is one token
    assert final["attention_mask"].tolist() == [1, 1, 1, 0, 0, 0]
    assert observation["attention_mask"].sum(1).tolist() == [1, 3]
    env.step(np.array([63, 63]))
    assert final["input_ids"].tolist() == [258, 60, 0, 0, 0, 0]


@pytest.mark.parametrize("token", [-1, 259])
def test_a_token_out_of_range_is_refused(token, array, make_small):
    env = make_small(array=array)
    env.reset()
    with pytest.raises(
        ValueError,
        match=rf"actions contain the token id {token}, but the vocabulary has the ids 0 to 258",
    ):
        env.step(np.array([5, token]))


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_tokens_that_are_no_integers_are_refused(array, dtype, make_small):
    env = make_small(array=array)
    env.reset()
    with pytest.raises(ValueError, match=r"actions have the dtype .*: token ids are integers"):
        env.step(np.ones(2, dtype))


@pytest.mark.parametrize(
    ("actions", "shape"), [([1], r"\(1,\)"), ([[1], [2]], r"\(2, 1\)"), (5, r"\(\)")]
)
def test_a_wrong_batch_size_is_refused(actions, shape, array, make_small):
    env = make_small(array=array)
    env.reset()
    with pytest.raises(
        ValueError,
        match=rf"actions have the shape {shape}, but this environment has 2 rows: give one token",
    ):
        env.step(actions)


def test_a_refused_action_leaves_the_episode_as_it_was(make_small):
    env = make_small()
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"token id 259"):
        env.step(np.array([5, 259]))
    after, *_ = env.step(np.array([5, 6]))
    assert (after["attention_mask"].sum(1) == before["attention_mask"].sum(1) + 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32])
def test_narrow_integers_are_tokens_like_any_other(dtype, array, driving, make_envs, make_model):
    env = make_envs(2, array=array, reference=make_model(), max_new_tokens=2, **driving)
    env.reset(seed=0)
    for actions in ([200, 60], [0, 61]):
        actions = np.array(actions, dtype)
        observation, *_, infos = env.step(torch.tensor(actions) if array == "torch" else actions)
    assert infos["finish_reason"].tolist() == ["stop", "length"]
    lengths = observation["attention_mask"].sum(1)
    assert [observation["input_ids"][row, lengths[row] - 1] for row in (0, 1)] == [0, 61]


# --- the table by itself ------------------------------------------------------------------------


@pytest.fixture
def make_table(array):
    """A table of three rows that begin with one, two and three tokens, and a budget of two."""

    def make(copy=True):
        table = TokenTable(3, 5, Arrays(array, "cpu"), copy)
        table.begin(np.arange(3), [np.array([9] * (row + 1)) for row in range(3)], 2)
        return table

    return make


def test_rows_grow_until_they_end(make_table):
    table = make_table()
    actions = table.checked(np.array([1, 2, 3]), 10)
    table.append(actions)
    table.end(actions == 2, actions == 2)
    assert table.running.tolist() == [True, False, True]
    table.append(actions + 3)
    assert table.budget_spent().tolist() == [True, False, True]
    assert table.response_lengths().tolist() == [2, 1, 2]
    assert table.stopped.tolist() == [False, True, False]
    observation = table.observation()
    assert observation["input_ids"].tolist() == [[9, 1, 4, 0, 0], [9, 9, 2, 0, 0], [9, 9, 9, 3, 6]]
    assert observation["attention_mask"].sum(1).tolist() == [3, 3, 5]
    mask = torch.arange(2) < to_tensor(table.response_lengths())[:, None]
    assert table.responses(mask)[mask].tolist() == [1, 4, 2, 3, 6]


def test_a_row_that_begins_anew_keeps_nothing_of_its_last_episode(make_table):
    table = make_table()
    table.append(table.checked(np.array([1, 2, 3]), 10))
    table.begin(np.array([2]), [np.array([8])], 2)
    assert table.observation()["input_ids"].tolist()[2] == [8, 0, 0, 0, 0]
    assert table.lengths.tolist() == [2, 3, 1] and table.response_lengths().tolist() == [1, 1, 0]


def test_an_origin_tells_episodes_and_steps_apart(make_table):
    table, other = make_table(), make_table()
    before = table.origin
    table.append(table.checked(np.array([1, 2, 3]), 10))
    table.begin(np.array([1]), [np.array([8])], 2)
    assert (before.steps, table.origin.steps) == (0, 1)
    assert (table.origin.episodes == before.episodes).tolist() == [True, False, True]
    numbers = [*before.episodes, table.origin.episodes[1], *other.origin.episodes]
    assert len(set(numbers)) == 7  # unique in this process, and not in this table alone


def test_observations_in_torch_mode_carry_the_origin_of_their_time(make_table, array):
    table = make_table(copy=False)
    observation, origin = table.observation(), table.origin
    table.append(table.checked(np.array([1, 2, 3]), 10))
    if array == "numpy":
        assert type(observation) is dict
    else:
        assert isinstance(observation, TokenObservation)
        assert observation.origin is origin and table.observation().origin.steps == 1


@pytest.mark.parametrize("values", [np.array([1.5, 2.5]), torch.tensor([1.5, 2.5]).double()])
def test_numbers_are_converted_to_the_kind_of_array(values, array):
    converted = Arrays(array, "cpu").convert(values)
    assert isinstance(converted, np.ndarray if array == "numpy" else torch.Tensor)
    # Learners compute in float32; numpy keeps what it is given.
    assert converted.dtype == (np.float64 if array == "numpy" else torch.float32)
    assert converted.tolist() == [1.5, 2.5]


def test_conversions_on_the_cpu_are_views():
    tensor, numbers = torch.zeros(2), np.zeros(2)
    to_numpy(tensor)[0] = to_tensor(numbers)[0] = 1
    assert tensor[0] == numbers[0] == 1
    assert to_tensor(tensor) is tensor and to_numpy(numbers) is numbers
    assert to_numpy(torch.ones(1, requires_grad=True)).tolist() == [1]
    assert to_tensor([1, 2]).tolist() == to_numpy([1, 2]).tolist() == [1, 2]
