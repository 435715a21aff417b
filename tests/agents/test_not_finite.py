"""Numbers that are not finite: the sentence names what is broken, and not the learning rate."""

from __future__ import annotations

import pytest
import torch

from agents import PPO, REINFORCE


@pytest.fixture
def agent_with(text_kwargs, make_model):
    """``agent_with(model, reference)``: an agent in a task with KL."""

    def make(model, reference=None, kind=REINFORCE):
        kwargs = text_kwargs(reference=reference or make_model(seed=1), kl_coef=0.1)
        return kind(
            "CausalLMPolicy", "TextGen-v0", n_envs=4, seed=0, device="cpu", env_kwargs=kwargs,
            policy_kwargs={"model": model},
        )  # fmt: skip

    return make


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("whose", ["policy", "reference"])
def test_weights_that_are_no_numbers_are_named(whose, part, number, agent_with, make_model):
    broken = make_model()
    with torch.no_grad():
        broken.get_parameter(part)[:] = number
    models = {"model": make_model(), "reference": make_model(seed=1)}
    models["model" if whose == "policy" else "reference"] = broken
    with pytest.raises(ValueError, match=rf"weights '{part}' .* not all finite"):
        agent_with(**models)


def test_an_overflow_of_float16_is_named(text_kwargs, make_model):
    reference = make_model(seed=1)
    with torch.no_grad():
        reference.model.layers[0].mlp.up_proj.weight.fill_(6e4)
        reference.model.layers[0].mlp.gate_proj.weight.fill_(6e4)
    with pytest.raises(ValueError, match=r"not numbers in torch\.float16.* in float32"):
        PPO(
            "CausalLMPolicy", "TextGen-v0", n_envs=4, device="cpu",
            env_kwargs=text_kwargs(reference=reference.half(), kl_coef=0.1),
            policy_kwargs={"model": make_model()},
        )  # fmt: skip


def test_a_reference_that_becomes_infinite_is_named(agent_with, make_model):
    reference = make_model(seed=1)
    agent = agent_with(make_model(), reference)
    with torch.no_grad():
        agent.env.shaping.reference.lm_head.weight.fill_(float("nan"))
    with pytest.raises((FloatingPointError, RuntimeError), match="reference"):
        agent.learn(8)
