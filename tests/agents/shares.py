"""Parts of a rollout, of which each process has one."""

from __future__ import annotations

from dataclasses import fields, replace

from torch import Tensor

from agents import distributed
from agents.experience.rollout import Rollout, take

# A step whose size the rounding of a sum cannot change: epsilon is far above it.
CALM = {"learning_rate": 1e-3, "adam_epsilon": 1e-3}


def rows_of(rollout: Rollout, rows: slice) -> Rollout:
    """Some of the rows of a rollout, of which other processes have the others."""
    columns = {column.name: getattr(rollout, column.name) for column in fields(rollout)}
    chosen = {
        name: take(column, rows)
        for name, column in columns.items()
        if isinstance(column, Tensor) or name == "observations"
    }
    several = distributed.process_count() > 1
    return replace(rollout, **chosen, all_reduce=distributed.all_reduce if several else None)


HALVES = (slice(0, 8), slice(8, 16))
CUTS = {
    "halves": HALVES,
    "one part is larger": (slice(0, 12), slice(12, 16)),
    "one part is empty": (slice(0, 16), slice(16, 16)),
    "three": (slice(0, 4), slice(4, 12), slice(12, 16)),
}
