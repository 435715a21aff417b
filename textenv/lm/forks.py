"""PyTorch in a process that was made by a fork, as those of Gymnasium's AsyncVectorEnv are."""

from __future__ import annotations

import os

import torch


def compute_in_forks() -> None:
    """Let the forks of this process compute, each with one thread, as workers of PyTorch's
    DataLoader do; `torch.set_num_threads` gives a fork more, if nothing was computed before it.

    A fork has none of the threads that its parent computed with. OpenMP waits for them without end,
    and PyTorch's other pool is made anew by the first thread that asks for it: where two ask at
    once, as threads in which transformers reads weights, one gets "Invalid thread pool!".
    """
    if hasattr(os, "register_at_fork"):  # Windows has no forks
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
