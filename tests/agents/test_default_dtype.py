"""PyTorch's default dtype is for the user's own tensors: agents learn in float32 all the same."""

from __future__ import annotations

import pytest
import torch

from agents import PPO, TRPO


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", [PPO, TRPO])
def test_language_models(kind, default_dtype, text_kwargs, model_folder):
    agent = kind(
        "CausalLMPolicy", "TextGen-v0", n_envs=4, seed=0, device="cpu",
        env_kwargs=text_kwargs(reference=model_folder, kl_coef=0.1),
        policy_kwargs={"model": model_folder, "critic_layers": 1},
    )  # fmt: skip
    agent.learn(8)
    assert {weight.dtype for weight in agent.policy.parameters()} == {torch.float32}


def test_small_networks(default_dtype):
    agent = PPO("MlpPolicy", "CartPole-v1", n_envs=2, seed=0, device="cpu").learn(64)
    assert {weight.dtype for weight in agent.policy.parameters()} == {torch.float32}
