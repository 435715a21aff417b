"""Several processes, each with its part of the rows, learn as one with all the rows (gloo, CPU).

The processes are forks of this one, which has everything imported.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import fork

from agents import PPO

SECONDS = int(os.environ.get("TEST_SECONDS", "300"))  # after which a process that hangs is ended


def started(works: Sequence[Callable[[], Any]], folder: Path) -> list[int]:
    """Start a process for each of ``works``, which are one run; returns their ids.

    What one returns is in ``folder/RANK.pt``, what it prints in ``folder/RANK.txt``.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [_start(rank, works, folder, port) for rank in range(len(works))]


def _start(rank: int, works: Sequence[Callable[[], Any]], folder: Path, port: int) -> int:
    def work() -> None:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(works)),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        torch.save(works[rank](), folder / f"{rank}.pt")

    log = folder / f"{rank}.txt"
    log.unlink(missing_ok=True)  # of processes that were started before
    return fork(work, log)


def codes_of(processes: Sequence[int]) -> list[int]:
    """The exit codes of processes, which must end in time."""
    codes: dict[int, int] = {}
    until = time.monotonic() + SECONDS
    while len(codes) < len(processes):
        for process in processes:
            if process not in codes:
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    codes[process] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            for process in set(processes) - codes.keys():
                os.kill(process, signal.SIGKILL)
            until = np.inf
        time.sleep(0.005)
    return [codes[process] for process in processes]


@pytest.fixture
def start(tmp_path) -> Callable:
    """``start([work, ...])``: `started` in the folder of the test."""
    return lambda works: started(works, tmp_path)


@pytest.fixture
def ended() -> Callable:
    """``ended(processes)``: `codes_of`."""
    return codes_of


@pytest.fixture
def in_processes(tmp_path) -> Callable:
    """``in_processes(one, other, ...)``: what each of the functions returns, in a process each."""

    def run(*works: Callable[[], Any]) -> list[Any]:
        codes = codes_of(started(works, tmp_path))
        printed = [(tmp_path / f"{rank}.txt").read_text() for rank in range(len(works))]
        assert codes == [0] * len(works), "\n".join(printed)
        return [
            torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(len(works))
        ]

    return run


@pytest.fixture
def text_agent(model_folder) -> Callable:
    """``text_agent(PPO, ...)``: on text, with an environment that the agent makes."""

    def make(kind: Any = PPO, env: Any = (), policy: Any = (), **changes: Any):
        task = {
            "prompts": ["a b", "c", "b a c a", "d d"], "reward": "length(3)", "max_new_tokens": 5,
            "reference": model_folder, "kl_coef": {"target": 0.1, "horizon": 100, "initial": 0.1},
        }  # fmt: skip
        arguments = {"n_envs": 8, "seed": 3, "device": "cpu", "learning_rate": 1e-2}
        return kind(
            "CausalLMPolicy", "TextGen-v0", env_kwargs=task | dict(env),
            policy_kwargs={"model": model_folder} | dict(policy), **arguments | changes,
        )  # fmt: skip

    return make
