"""An update of several processes with parts of a rollout is that of one with the whole of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import pytest
import torch
from shares import CALM, CUTS, HALVES, rows_of
from torch import Tensor
from torch.testing import assert_close

import agents.algorithms
from agents import distributed
from agents.experience.rollout import Rollout
from agents.training.hyperparameters import state_names


def assert_same_update(agent: Any, cuts: Sequence[slice], weights: Any, in_processes: Any) -> None:
    """An update of processes with parts of a rollout is that of this one with the whole of it."""
    with torch.no_grad():  # a critic that foretells 0 has no variance to explain
        for parameter in agent.policy.critic_parameters():
            parameter += 0.1
    rollout = agent.collect()

    def learn(part: Rollout) -> tuple[dict[str, float], dict[str, Tensor], Any]:
        metrics = agent.update(part)
        state = {name: getattr(agent, name) for name in state_names(type(agent))}
        return metrics, weights(agent), state

    before = weights(agent)
    found = in_processes(*(lambda cut=cut: learn(rows_of(rollout, cut)) for cut in cuts))
    metrics, after, state = learn(rollout)
    assert max((after[name] - before[name]).abs().max() for name in after) > 1e-4
    for metrics_here, weights_here, state_here in found:
        assert metrics_here == pytest.approx(metrics, rel=1e-4, abs=1e-5)
        assert state_here == pytest.approx(state)
        for name in after:
            assert_close(weights_here[name], after[name], rtol=0, atol=1e-6)
            assert torch.equal(weights_here[name], found[0][1][name])  # in all, bit for bit


QUICK = ("one part is empty",)  # the others are tried in the slow run


@pytest.mark.parametrize(
    "cut", [pytest.param(cut, marks=[] if cut in QUICK else [pytest.mark.slow]) for cut in CUTS]
)
def test_parts_make_the_update_of_the_whole(name, cut, make_agent, fitting, weights, in_processes):
    few = fitting(name, n_epochs=2, batch_size=None, n_critic_updates=2, cg_max_steps=5)
    agent = make_agent(name, **CALM, **few)
    assert_same_update(agent, CUTS[cut], weights, in_processes)


def test_micro_batches_whose_number_differs(name, make_agent, fitting, weights, in_processes):
    few = fitting(name, n_epochs=2, batch_size=None, n_critic_updates=1, cg_max_steps=5)
    agent = make_agent(name, **CALM, **few, micro_batch_size=3)
    assert_same_update(agent, CUTS["one part is larger"], weights, in_processes)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_range": None, "kl_loss_coef": 0.2, "reverse_kl": True},
        {"kl_loss_coef": 0.2, "kl_loss_target": 1e-5, "n_epochs": 3},
        {"target_kl": 1e-5, "n_epochs": 10},
        {"ent_coef": 0.01, "clip_range_vf": 0.2, "dual_clip": 3.0},
    ],
)
def test_what_ppo_decides_by_the_kl(options, make_agent, weights, in_processes):
    options = {"batch_size": None, "n_epochs": 2} | options
    assert_same_update(make_agent("PPO", **CALM, **options), HALVES, weights, in_processes)


@pytest.mark.parametrize("options", [{"return_to_go": False}, {"baseline_momentum": None}])
def test_what_reinforce_subtracts(options, make_agent, weights, in_processes):
    assert_same_update(make_agent("REINFORCE", **CALM, **options), HALVES, weights, in_processes)


@pytest.mark.parametrize("cut", [(slice(0, 2), slice(2, 4)), (slice(0, 1), slice(1, 4))])
def test_single_steps(ungrouped, cut, corridor, fitting, weights, in_processes):
    """Of a small network, whose rows are steps, in episodes of different lengths."""
    few = fitting(ungrouped.__name__, batch_size=None, n_epochs=2, n_critic_updates=2)
    envs = gym.vector.SyncVectorEnv([corridor] * 4)
    agent = ungrouped("MlpPolicy", envs, n_steps=40, seed=0, device="cpu", **CALM, **few)
    assert_same_update(agent, cut, weights, in_processes)


def test_no_episode_has_ended_in_one_process(corridor, weights, in_processes):
    """REINFORCE has nothing to learn from there."""
    envs = gym.vector.SyncVectorEnv([corridor] * 2)
    agent = agents.algorithms.REINFORCE("MlpPolicy", envs, n_steps=40, seed=0, device="cpu", **CALM)
    rollout = agent.collect()
    rollout.episode_end[1] = False
    agent.collect = lambda: rollout
    assert_same_update(agent, (slice(0, 1), slice(1, 2)), weights, in_processes)


@pytest.mark.parametrize(("rows", "cut"), [(16, 8), (16, 3), (13, 13)])
def test_all_processes_take_the_same_number_of_minibatches(rows, cut, make_agent, in_processes):
    """Each row once in an epoch, in minibatches of at most the size, but for rounding."""
    agent = make_agent("PPO", rows, batch_size=4, n_epochs=1)
    rollout = agent.collect()

    def sizes(part: slice) -> list[tuple[float, float]]:
        counts = []
        step = agent.optimizer_step

        def noting(batch, stop):
            (everywhere,) = distributed.all_reduce([batch.counts.episodes])
            counts.append((batch.counts.episodes, everywhere))
            return step(batch, stop)

        agent.optimizer_step = noting
        agent.update(rows_of(rollout, part))
        return counts

    one, other = in_processes(lambda: sizes(slice(0, cut)), lambda: sizes(slice(cut, rows)))
    assert len(one) == len(other) == -(-rows // 4)
    rounding = 1 if cut == 3 else 0
    assert sum(own for own, _ in one) == cut and sum(own for own, _ in other) == rows - cut
    for (own, of_all), (of_other, again) in zip(one, other, strict=True):
        assert own + of_other == of_all == again <= 4 + rounding
