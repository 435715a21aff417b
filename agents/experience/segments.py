"""Rows of steps, cut into one row for each episode, or for the part of it in the rollout.

A sequential policy, whose observations are prefixes of each other, evaluates a whole episode in one
forward pass, from its first and its last observation.
"""

from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.experience.rollout import Rollout
from agents.policies.base import Policy


class Segment(NamedTuple):
    """Steps ``start`` to ``stop`` of a row, with the observations before and after them."""

    row: int
    start: int
    stop: int
    first: Any
    last: Any


class Segments:
    """Records where episodes begin and end while steps are taken."""

    def __init__(self, num_rows: int):
        self._begun: list[tuple[int, Any] | None] = [None] * num_rows
        self._segments: list[Segment] = []

    def step(self, t: int, observation: Any, counts: np.ndarray) -> None:
        """Record that step t is taken from ``observation`` in the rows that count."""
        for row in np.flatnonzero(counts).tolist():
            if self._begun[row] is None:
                self._begun[row] = t, _of_row(observation, row)

    def end(self, stop: int, rows: np.ndarray, last: Any) -> None:
        """The episodes of some rows (indices) end before step ``stop``, in observation ``last``."""
        for row in rows.tolist():
            begun = self._begun[row]
            if begun is not None:
                self._segments.append(Segment(row, begun[0], stop, begun[1], _of_row(last, row)))
                self._begun[row] = None

    def cut(self, rollout: Rollout, policy: Policy) -> Rollout:
        """The rollout with a row for each segment."""
        device = rollout.mask.device
        rows, starts, stops = (
            torch.tensor([[segment[i]] for segment in self._segments], device=device)
            for i in range(3)
        )
        steps = starts + torch.arange(int((stops - starts).max()), device=device)
        inside = steps < stops
        at = (rows, steps.clamp(max=rollout.mask.shape[1] - 1))
        columns = {
            column.name: getattr(rollout, column.name)[at]
            for column in fields(rollout)
            if isinstance(getattr(rollout, column.name), Tensor)
        }
        columns["mask"] = columns["mask"] & inside
        columns["episode_end"] = columns["episode_end"] & inside
        first = _stacked([segment.first for segment in self._segments])
        last = _stacked([segment.last for segment in self._segments])
        observations = {
            key: value.to(device) for key, value in policy.rollout_observations(first, last).items()
        }
        return replace(rollout, **columns, observations=observations, sequential=True)


def _of_row(observation: Any, row: int) -> Any:
    """A copy of one row, because buffers may be used again."""
    return {key: torch.as_tensor(value[row]).clone() for key, value in observation.items()}


def _stacked(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
