"""Reduced precision: a rounded copy acts, and the old log-probabilities are those of evaluate."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from stable_baselines3.common.logger import configure
from torch.testing import assert_close

from agents.collect import collect_episodes


@pytest.fixture
def in_bfloat16(make_agent):
    """``in_bfloat16(envs=None)``: an agent that acts in bfloat16."""

    def make(envs=None):
        return make_agent(
            "PPO", envs=envs, learning_rate=1e-3, n_epochs=1, n_steps=9,
            policy_kwargs={"dtype": "bfloat16"},
        )  # fmt: skip

    return make


@pytest.mark.parametrize("stepwise", [False, True], ids=["batch", "step"])
def test_in_bfloat16_the_old_log_probs_are_those_of_evaluate(stepwise, wrapped, in_bfloat16):
    agent = in_bfloat16(wrapped(16) if stepwise else None)
    rollout = agent.collect()
    now = agent.policy.evaluate(rollout.observations, rollout.actions, rollout.mask)
    at = rollout.mask
    assert_close(rollout.log_probs[at], now.log_probs[at].detach(), rtol=0, atol=0)
    assert now.log_probs.dtype == torch.float32
    assert agent.update(rollout)["first_approx_kl"] == pytest.approx(0, abs=1e-7)


def test_in_bfloat16_a_rounded_copy_acts_and_float32_learns(in_bfloat16):
    agent = in_bfloat16()
    collected = collect_episodes(agent.env, agent.policy)
    now = agent.policy.evaluate(collected.observations, collected.actions, collected.mask)
    gap = (collected.log_probs - now.log_probs.detach()).abs().max()
    assert 1e-5 < gap < 0.3
    agent.update(collected)
    assert all(p.dtype == torch.float32 for p in agent.policy.parameters())


def test_the_mismatch_of_acting_and_evaluating_is_logged_as_a_mean_over_tokens(
    in_bfloat16, tmp_path, monkeypatch
):
    agent = in_bfloat16()
    collect, by_hand = agent.collector.collect, []

    def noting(*arguments):
        rollout = collect(*arguments)
        now = agent.policy.evaluate(rollout.observations, rollout.actions, rollout.mask)
        gap = (now.log_probs.detach() - rollout.log_probs)[rollout.mask].abs()
        by_hand.append(gap.mean().item())
        return rollout

    monkeypatch.setattr(agent.collector, "collect", noting)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(1)
    (logged,) = pd.read_csv(tmp_path / "progress.csv")["rollout/log_prob_mismatch"]
    assert logged == pytest.approx(by_hand[0], rel=1e-4)
    assert 1e-5 < logged < 0.3


def test_in_float32_nothing_is_evaluated_again_and_no_mismatch_is_logged(make_agent, monkeypatch):
    agent = make_agent("PPO")
    monkeypatch.setattr(agent.policy, "evaluate", None)
    rollout = agent.collect()
    assert rollout.log_prob_mismatch is None
