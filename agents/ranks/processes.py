"""How many processes there are, which one this is, and the meeting of all."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import torch

# The environment variable that, if it is not empty, lets each process learn alone, as in a sweep
# whose runs a launcher starts.
ALONE = "AGENTS_ALONE"


def count() -> int:
    """The number of processes; 1 where the environment says that each is alone (`ALONE`)."""
    if os.environ.get(ALONE) or not os.environ.get("RANK"):
        return 1
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the first process, which alone prints, logs, evaluates and saves."""
    return rank() == 0


def join(device: str) -> str:
    """Meet the other processes.

    Args:
        device: "cpu", or "cuda" for the accelerator that belongs to this process.

    Returns:
        The device of this process, such as "cuda:1".

    Raises:
        ModuleNotFoundError: accelerate is not installed.
        ValueError: ``device`` is one that belongs to another process.
    """
    asked = torch.device(device)
    here = meet(asked.type == "cpu").device
    if asked.type == "cpu" or asked.type != here.type:
        return device
    if asked.index not in (None, here.index):
        raise ValueError(
            f"device={device!r} would be that of each process: use 'auto', which gives each one of "
            "its own."
        )
    return str(here)


def own_rows(name: str, rows: int, group_size: int = 1) -> int:
    """The number of this process's rows, of so many in all.

    Args:
        name: of the argument, for the message.
        rows: of all processes.
        group_size: rows that stay together.

    Raises:
        ValueError: they cannot be divided equally, in whole groups.
    """
    if count() > 1 and rows % (count() * group_size):
        groups = "" if group_size == 1 else f" in groups of {group_size}"
        raise ValueError(
            f"{name}={rows} cannot be divided equally among {count()} processes{groups}: use a "
            f"multiple of {count() * group_size}."
        )
    return rows // count()


@cache
def _partial_state(cpu: bool) -> Any:
    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"This program was started as one of {count()} processes, which need accelerate: "
            "pip install accelerate."
        ) from error
    if is_main():
        print(f"waiting for {count()} processes", file=sys.stderr)
    state = PartialState(cpu=cpu)
    if state.num_processes != count():
        raise RuntimeError(
            f"The environment says that there are {count()} processes (WORLD_SIZE), but accelerate "
            f"finds {state.num_processes}: start them with torchrun, or set {ALONE}=1."
        )
    return state


def meet(cpu: bool | None = None) -> Any:
    """What accelerate knows of the processes, which the first call waits for.

    Args:
        cpu: whether they are to meet on the CPU; None: where no accelerator is.
    """
    return _partial_state(not torch.cuda.is_available() if cpu is None else cpu)
