"""Gradient checkpointing: less is kept for the backward pass, and the gradients are the same."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from agents import PPO, TRPO
from agents.training.memory_plan import memory_plan

KINDS = ["llama", "gpt2", "qwen3", "gpt_neox", "opt"]


@pytest.fixture
def make(make_text_envs, make_model):
    def make_agent(cls=PPO, kind="llama", **policy_kwargs):
        return cls(
            "CausalLMPolicy", make_text_envs(8), seed=0, device="cpu",
            policy_kwargs={"model": make_model(kind), **cls.policy_needs, **policy_kwargs},
        )  # fmt: skip

    return make_agent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("critic_layers", [0, 1])
def test_gradients_are_the_same(make, kind, critic_layers):
    plain = make(kind=kind, critic_layers=critic_layers)
    again = make(kind=kind, critic_layers=critic_layers, gradient_checkpointing=True)
    rollout = plain.collect()
    assert torch.equal(again.collect().actions, rollout.actions)
    for agent in (plain, again):
        now = agent.policy.evaluate(rollout)
        (now.log_probs.sum() + now.values.sum()).backward()
    for one, other in zip(plain.policy.parameters(), again.policy.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)
    assert memory_plan(again).activations < memory_plan(plain).activations


@pytest.mark.parametrize("cls", [PPO, TRPO])
def test_agents_learn_with_it(make, cls):
    plain, again = make(cls), make(cls, gradient_checkpointing=True)
    plain.learn(40), again.learn(40)
    for one, other in zip(plain.policy.parameters(), again.policy.parameters(), strict=True):
        assert_close(one, other, rtol=0, atol=1e-4)


def test_adapters_and_bfloat16(make):
    agent = make(gradient_checkpointing=True, lora=2, dtype="bfloat16").learn(40)
    rollout = agent.collect()
    assert 0 <= agent.update(rollout)["log_prob_mismatch"] < 0.3
