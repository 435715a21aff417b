"""A rollout hands out batches: flat steps or whole sequences, which know their counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from agents.experience.rollout import Batch, Rollout


def rollout_of(mask: list[list[int]], sequential: bool) -> Rollout:
    counts = torch.tensor(mask, dtype=torch.bool)
    numbers = torch.arange(counts.numel(), dtype=torch.float32).reshape(counts.shape)
    observations = {"input_ids": numbers} if sequential else numbers[..., None]
    zeros = torch.zeros_like(numbers)
    return Rollout(
        observations, numbers, numbers, zeros, zeros, zeros, zeros.bool(), counts, sequential
    )


def test_steps_become_rows_of_their_own():
    rollout = rollout_of([[1, 1, 0, 1], [1, 0, 0, 1]], sequential=False)
    batch = rollout.batch(advantages=rollout.actions * 10)
    assert len(batch) == batch.counts.steps == rollout.num_steps == 5
    assert batch.mask.shape == (5, 1) and batch.mask.all()
    assert batch.actions[:, 0].tolist() == [0, 1, 3, 4, 7]
    assert batch.observations[:, 0, 0].tolist() == [0, 1, 3, 4, 7]
    assert batch.advantages[:, 0].tolist() == [0, 10, 30, 40, 70]
    with pytest.raises(ValueError, match="needs a reference"):
        _ = batch.reference_log_probs


def test_the_episodes_of_single_steps_are_counted_before_the_steps_are_torn_apart():
    """Row 0 holds the end of one episode and the beginning of the next, row 1 a part of one."""
    rollout = rollout_of([[1, 1, 0, 1], [1, 1, 1, 1]], sequential=False)
    rollout.episode_end[0, 1] = True
    assert rollout.counts == rollout.batch().counts == (7, 3)
    rollout.episode_end[1, 0] = True
    assert rollout.counts == (7, 4)


def test_a_minibatch_of_single_steps_counts_its_share_of_the_episodes():
    rollout = rollout_of([[1, 1, 1, 1], [1, 1, 1, 1]], sequential=False)
    parts = list(rollout.batches(6, torch.Generator().manual_seed(0)))
    assert [part.counts for part in parts] == [(6, 1.5), (2, 0.5)]
    micro = list(parts[0].micro_batches(4))
    assert [len(part) for part in micro] == [4, 2]
    assert {part.counts for part in micro} == {(6, 1.5)}


def test_steps_count_as_completed_up_to_the_last_end_of_their_row():
    rollout = rollout_of([[1, 1, 1, 1], [1, 1, 1, 1]], sequential=False)
    rollout.episode_end[0, 2] = True
    assert rollout.completed().mask.tolist() == [[True, True, True, False], [False] * 4]


def test_sequences_stay_whole():
    rollout = rollout_of([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], sequential=True)
    batch = rollout.batch()
    assert len(batch) == 3 and batch.counts == (5, 2)
    assert batch.actions is rollout.actions


def test_minibatches_hold_each_row_once_and_count_for_themselves():
    mask = (torch.arange(4) < torch.tensor([[1], [2], [3], [4], [2]])).int().tolist()
    rollout = rollout_of(mask, sequential=True)
    parts = list(rollout.batches(2, torch.Generator().manual_seed(0)))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [part.counts.episodes for part in parts] == [2, 2, 1]
    assert [part.counts.steps for part in parts] == [int(part.mask.sum()) for part in parts]
    rows = [row for part in parts for row in part.actions[:, 0].tolist()]
    assert sorted(rows) == [0, 4, 8, 12, 16] and rows != sorted(rows)
    again = rollout.batches(2, torch.Generator().manual_seed(0))
    assert [part.actions[:, 0].tolist() for part in again] == [
        part.actions[:, 0].tolist() for part in parts
    ]


@pytest.mark.parametrize(("batch_size", "sizes"), [(8, [8, 4]), (6, [4, 4, 4]), (3, [4, 4, 4])])
def test_groups_stay_together_whatever_the_size_of_a_minibatch(batch_size, sizes):
    rollout = rollout_of([[1]] * 12, sequential=True)
    parts = list(rollout.batches(batch_size, torch.Generator().manual_seed(0), group_size=4))
    assert [len(part) for part in parts] == sizes
    for part in parts:
        groups = (part.actions[:, 0] // 4).reshape(-1, 4)
        assert (groups == groups[:, :1]).all()


def test_micro_batches_know_the_counts_of_the_whole():
    mask = (torch.arange(4) < torch.tensor([[1], [2], [3], [4], [2]])).int().tolist()
    batch = rollout_of(mask, sequential=True).batch()
    parts = list(batch.micro_batches(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert {part.counts for part in parts} == {(12, 5)}
    assert_close(torch.cat([part.actions for part in parts]), batch.actions)
    assert list(batch.micro_batches(None)) == [batch] == list(batch.micro_batches(5))


def test_a_chosen_batch_counts_anew():
    batch = rollout_of([[1, 1, 0], [1, 1, 1], [1, 0, 0]], sequential=True).batch()
    chosen: Batch = batch.take(torch.tensor([2, 0]))
    assert chosen.counts == (3, 2)
    rows: Tensor = chosen.observations["input_ids"]
    assert rows[:, 0].tolist() == [6, 0]
