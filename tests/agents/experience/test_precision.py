"""Reduced precision: a rounded copy acts, and the old log-probabilities are those of evaluate."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from stable_baselines3.common.logger import configure
from torch.testing import assert_close

from agents import PPO, MlpPolicy
from agents.experience.episodes import collect_episodes


@pytest.fixture
def in_bfloat16(make_agent):
    """``in_bfloat16(envs=None)``: an agent that acts in bfloat16."""

    def make(envs=None):
        return make_agent(
            "PPO", envs=envs, learning_rate=1e-3, n_epochs=1, n_steps=9, batch_size=8,
            policy_kwargs={"dtype": "bfloat16"},
        )  # fmt: skip

    return make


@pytest.mark.parametrize("stepwise", [False, True], ids=["batch", "step"])
def test_in_bfloat16_the_old_log_probs_are_those_of_evaluate(stepwise, wrapped, in_bfloat16):
    agent = in_bfloat16(wrapped(16) if stepwise else None)
    rollout = agent.collect()
    now = agent.policy.evaluate(rollout)
    agent.use_right_log_probs(rollout, only_step=False)
    at = rollout.mask
    assert_close(rollout.log_probs[at], now.log_probs[at].detach(), rtol=0, atol=0)
    assert now.log_probs.dtype == torch.float32
    assert agent.update(rollout)["first_approx_kl"] == pytest.approx(0, abs=1e-7)


def test_in_bfloat16_a_rounded_copy_acts_and_float32_learns(in_bfloat16):
    agent = in_bfloat16()
    collected = collect_episodes(agent.env, agent.policy)
    now = agent.policy.evaluate(collected)
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
        now = agent.policy.evaluate(rollout)
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


ONE_STEP: dict[str, dict[str, Any]] = {
    "REINFORCE": {"kl_loss_coef": 0.1}, "ActorCritic": {}, "RLOO": {}, "GRPO": {"batch_size": None},
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_STEP)
def test_of_one_step_the_old_log_probs_are_those_of_the_step(
    name, make_agent, make_text_envs, make_model, weights, monkeypatch
):
    """The update is the one after an evaluation of its own, which is not made."""

    def make():
        groups = {"group_size": 4} if name in ("RLOO", "GRPO") else {}
        envs = make_text_envs(16, reference=make_model(), kl_coef=0.1, **groups)
        return make_agent(
            name, envs=envs, learning_rate=1e-2, policy_kwargs={"dtype": "bfloat16"}, **groups,
            **ONE_STEP[name],
        )  # fmt: skip

    agent, other = make(), make()
    evaluated: list[int] = []
    evaluate = agent.policy.evaluate
    monkeypatch.setattr(
        agent.policy,
        "evaluate",
        lambda *given, **also: evaluated.append(1) or evaluate(*given, **also),
    )
    metrics = agent.update(agent.collect())
    assert len(evaluated) == 1
    assert metrics["first_approx_kl"] == 0 and 1e-5 < metrics["log_prob_mismatch"] < 0.3
    rollout = other.collect()
    other.use_right_log_probs(rollout, only_step=False)
    assert rollout.log_prob_mismatch is not None
    other.update(rollout)
    for one, two in zip(agent.policy.parameters(), other.policy.parameters(), strict=True):
        assert_close(one, two, rtol=0, atol=1e-7)


@pytest.mark.parametrize("given", [{"batch_size": 8}, {"n_epochs": 2, "batch_size": None}])
def test_of_several_steps_they_are_evaluated_before(given, make_agent, make_text_envs):
    agent = make_agent(
        "GRPO", envs=make_text_envs(16, group_size=4), group_size=4, kl_loss_coef=0.0,
        policy_kwargs={"dtype": "bfloat16"}, **given,
    )  # fmt: skip
    rollout = agent.collect()
    metrics = agent.update(rollout)
    assert rollout.log_prob_mismatch is not None
    assert metrics["first_approx_kl"] == pytest.approx(0, abs=1e-7)


class Rounded(MlpPolicy):
    """A policy of single steps that acts in a reduced precision."""

    reduced_precision = True

    def act(self, *given):
        actions, log_probs, values, state = super().act(*given)
        return actions, log_probs + 0.01, values, state


def test_single_steps_may_be_rounded_as_well(on_cartpole):
    agent = on_cartpole(PPO, policy=Rounded, n_steps=32, batch_size=16, n_epochs=2)
    rollout = agent.collect()
    metrics = agent.update(rollout)
    now = rollout.log_prob_mismatch[rollout.mask]
    assert_close(now, torch.full_like(now, 0.01), rtol=0, atol=1e-6)
    assert metrics["first_approx_kl"] == pytest.approx(0, abs=1e-7)
