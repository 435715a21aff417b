"""The processes of one run that learn together, each with its own part of the rows.

``torchrun`` and ``accelerate launch`` start a program several times. Each process (its number is
its *rank*) collects experience in rows of its own; what has to be known of all rows is exchanged
here: counts, statistics, gradients, decisions. So each step makes the same weights in all of them.

A loss is divided by the counts of the whole step (`agents.rollout.Batch.of_all`), so gradients are
summed, and parts may be of any size: an empty one adds nothing.

Every process has to call these functions at the same points and in the same order. A program that
was started once has one process: then they return what they are given, and need no other package.
"""

from __future__ import annotations

from agents.ranks.endings import leave, silent_unless_main, tells_all, together
from agents.ranks.exchange import (
    ProcessLost,
    add_gradients,
    added,
    copy_from_main,
    everyone,
    gather,
    mean,
    sums,
    total,
)
from agents.ranks.processes import count, is_main, join, own_rows, rank

__all__ = [
    "ProcessLost",
    "add_gradients",
    "added",
    "copy_from_main",
    "count",
    "everyone",
    "gather",
    "is_main",
    "join",
    "leave",
    "mean",
    "own_rows",
    "rank",
    "silent_unless_main",
    "sums",
    "tells_all",
    "together",
    "total",
]
