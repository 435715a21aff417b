"""Processes that are forks of one which has computed with several threads."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import gymnasium as gym
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv

import textenv  # noqa: F401  (registers TextGen-v0)
from textenv.lm import load_model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
LARGE = torch.ones(300_000)  # as much as PyTorch shares out among its threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    LARGE.sum()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_time():
    def end(*_: object) -> None:
        raise TimeoutError("a fork waits for threads that it does not have")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def convert_at_once() -> None:
    threads = 8
    gate = Barrier(threads)

    def convert(_: int) -> float:
        gate.wait()
        return LARGE.to(torch.float64).sum().item()

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(convert, range(threads))) == [len(LARGE)] * threads


def test_threads_of_a_fork_compute_at_once(two_threads):
    for _ in range(20):  # without `compute_in_forks` it waits for ever, with one thread half fail
        process = os.fork()
        if not process:
            signal.alarm(60)  # ends a fork that waits
            code = 1
            try:
                convert_at_once()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_environments_of_forks_compute_a_reference(two_threads, in_time):
    load_model("bundled")(torch.ones(64, 16, dtype=torch.long))
    make = lambda: gym.make("TextGen-v0", reference="bundled", max_new_tokens=4)  # noqa: E731
    envs = AsyncVectorEnv([make, make], context="fork")
    try:
        envs.reset(seed=0)
        *_, infos = envs.step(envs.action_space.sample())
        assert (infos["ref_log_prob"] < 0).all()
    finally:
        for process in envs.processes:
            process.kill()
        envs.close(terminate=True)
