"""Weights that are sharded among processes learn as whole ones do (FSDP2, gloo, CPU)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_updates import CALM, CUTS, HALVES, rows_of
from torch import Tensor
from torch.testing import assert_close

from agents import distributed
from agents.training.optimization import make_optimizer

accelerate = pytest.importorskip("accelerate")


def whole_weights(agent: Any) -> dict[str, Tensor]:
    return {
        name: distributed.whole(weight).detach().clone()
        for name, weight in agent.policy.named_parameters()
    }


def sharded(agent: Any) -> Any:
    """The agent, made by one process, as if several had made it."""
    agent.policy.shard()
    agent.optimizer = make_optimizer(
        agent.trained_parameters(), agent.learning_rate, agent.weight_decay, agent.adam_epsilon
    )
    agent.gather()
    return agent


def assert_same_update(agent: Any, cuts: Any, in_processes: Any) -> None:
    """An update of processes that share the weights is that of this one."""
    with torch.no_grad():
        for parameter in agent.policy.critic_parameters():
            parameter += 0.1
    rollout = agent.collect()

    def learn(part: slice) -> tuple[dict[str, float], dict[str, Tensor], int]:
        mine = rows_of(rollout, part)
        mine.in_step = distributed.in_step
        metrics = sharded(agent).update(mine)
        own = sum(distributed.own_part(p).numel() for p in agent.policy.parameters())
        return metrics, whole_weights(agent), own

    before = whole_weights(agent)
    found = in_processes(*(lambda cut=cut: learn(cut) for cut in cuts))
    metrics, after = agent.update(rollout), whole_weights(agent)
    assert max((after[name] - before[name]).abs().max() for name in after) > 1e-4
    every = sum(p.numel() for p in agent.policy.parameters())
    for metrics_here, weights_here, own in found:
        assert metrics_here == pytest.approx(metrics, rel=1e-4, abs=1e-5)
        assert own < every
        for name in after:
            assert_close(weights_here[name], after[name], rtol=0, atol=1e-6)
            assert torch.equal(weights_here[name], found[0][1][name])


@pytest.fixture
def sharing(name) -> str:
    if name == "TRPO":
        pytest.skip("refused")
    return name


@pytest.mark.parametrize("cut", CUTS)
def test_an_update_is_that_of_one_process(cut, sharing, make_agent, fitting, in_processes):
    few = fitting(sharing, n_epochs=2, batch_size=None, micro_batch_size=5)
    assert_same_update(make_agent(sharing, **CALM, **few), CUTS[cut], in_processes)


@pytest.mark.parametrize(
    "policy", [{"critic_layers": 1}, {"gradient_checkpointing": True}, {"dtype": "bfloat16"}]
)
def test_other_policies(policy, make_agent, in_processes):
    agent = make_agent("PPO", policy_kwargs=policy, **CALM, batch_size=None, n_epochs=2, micro_batch_size=5)
    assert_same_update(agent, HALVES, in_processes)
