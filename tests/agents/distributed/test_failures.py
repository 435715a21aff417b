"""One process fails, wherever it is: all end, each with a sentence, and the work is saved."""

from __future__ import annotations

import os

import pytest

from agents import PPO, distributed
from agents.experience import environments
from agents.runs import RunRecorder
from agents.saving import agent_folder

LOST = "Another process of this run has ended"
WORDS = "the judge is away"
TIMES = int(os.environ.get("FAILURES", "2"))
QUICK = (("construction", 1, "none"), ("update", 1, "full"))  # the others are in the slow run
CASES = [
    (moment, rank, shard)
    for moment in ("construction", "loading", "collecting", "update", "saving")
    for rank in (0, 1)
    for shard in ("none", "full")
    if (moment, rank) != ("saving", 1)  # the first process saves
]


def away(*_, **__):
    raise ArithmeticError(WORDS)


@pytest.mark.parametrize(
    ("moment", "rank", "shard", "time"),
    [
        pytest.param(*case, time, marks=[] if case in QUICK and time == 0 else [pytest.mark.slow])
        for case in CASES
        for time in range(TIMES)
    ],
)
def test_all_end(moment, rank, shard, time, text_agent, monkeypatch, tmp_path, in_processes):
    def work():
        here = distributed.rank() == rank
        if moment == "construction" and here:
            monkeypatch.setattr(environments, "for_agent", away)
        try:
            with distributed.raise_in_all_processes():  # as the command line does
                agent = text_agent(PPO, shard=shard, batch_size=4)
                if moment == "loading" and here:  # after weights have been shared out
                    away()
                agent.gather()
        except Exception as error:
            return type(error).__name__, str(error)
        agent.learn(100, RunRecorder(tmp_path / "run", "1 rollout"))
        rollouts = agent.num_rollouts
        if here:
            if moment == "collecting":
                monkeypatch.setattr(agent.collector, "collect", away)
            if moment == "update":
                monkeypatch.setattr(agent, "loss", away)
            if moment == "saving":
                monkeypatch.setattr(agent_folder, "save", away)
        with pytest.raises(Exception) as caught:
            recorder = RunRecorder(tmp_path / "run", "1 rollout", resume=True)
            agent.learn(10_000, recorder, reset_num_timesteps=False)
        return type(caught.value).__name__, str(caught.value), rollouts

    found = in_processes(work, work)
    own = ("ArithmeticError", WORDS)
    assert found[rank][:2] == own
    other = found[1 - rank]
    if moment == "update" or (moment, shard) == ("loading", "full"):
        assert other[0] == "ProcessLost" and other[1].startswith(LOST)
    else:
        assert other[:2] == own
    if moment not in ("construction", "loading"):
        saved = PPO.load(tmp_path / "run", device="cpu")
        assert saved.num_rollouts >= found[rank][2] - (moment == "saving")
