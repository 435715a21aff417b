"""A model that ends its turn with another token than its tokenizer's: wherever the tokenizer lies,
the environment stops there, before saving and after it."""

from __future__ import annotations

import logging

import gymnasium as gym
import pytest
import transformers

from agents import PPO, CausalLMPolicy
from textenv.lm.loading import load_model

ENDS = [0, 5]


@pytest.fixture
def source(tmp_path, make_model, make_tokenizer):
    """A folder with a model of two ends, and with a tokenizer, which knows one of them."""
    model = make_model()
    model.generation_config.eos_token_id = ENDS
    model.save_pretrained(tmp_path / "source")
    make_tokenizer().save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize("lora", [None, 2])
@pytest.mark.parametrize("model", ["a folder", "live"])
@pytest.mark.parametrize("where", ["beside the model", "in a folder of its own", "live"])
def test_the_ends_of_the_model_are_kept(source, lora, model, where, tmp_path, make_tokenizer):
    if lora:
        pytest.importorskip("peft")
    env_kwargs = {"prompts": ["a b"], "reward": "length"}
    if where == "in a folder of its own":
        make_tokenizer().save_pretrained(tmp_path / "tokenizer")
        env_kwargs["tokenizer"] = str(tmp_path / "tokenizer")
    elif where == "live":
        env_kwargs["tokenizer"] = make_tokenizer()
    policy_kwargs = {"model": str(source) if model == "a folder" else load_model(source)}
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=4, seed=0, device="cpu", env_kwargs=env_kwargs,
        policy_kwargs=policy_kwargs | ({} if lora is None else {"lora": lora}),
    )  # fmt: skip
    assert agent.env.task.stop_rule.tokens == ENDS
    agent.save(tmp_path / "saved")
    again = PPO.load(tmp_path / "saved")
    assert again.env.task.stop_rule.tokens == ENDS
    again.save(tmp_path / "again")
    assert PPO.load(tmp_path / "again").env.task.stop_rule.tokens == ENDS


def test_an_environment_made_before_is_warned_of_ends_it_does_not_know(
    source, make_tokenizer, caplog
):
    def policy_in(**changes):
        caplog.clear()
        envs = gym.make_vec("TextGen-v0", num_envs=2, prompts=["a"], reward="length", **changes)
        with caplog.at_level(logging.WARNING):
            PPO(CausalLMPolicy, envs, device="cpu", policy_kwargs={"model": str(source)})
        return caplog.text

    assert "tokens [5], on which the environment does not stop" in policy_in(
        tokenizer=make_tokenizer()
    )
    assert "[5]" not in policy_in(tokenizer=make_tokenizer(), stop=[5])
    assert "[5]" not in policy_in(tokenizer=str(source))


def test_the_default_of_an_architecture_is_no_end(make_tokenizer):
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.generation_config.eos_token_id == 2
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=2, device="cpu", policy_kwargs={"model": model},
        env_kwargs={"prompts": ["a"], "reward": "length", "tokenizer": make_tokenizer()},
    )  # fmt: skip
    assert agent.env.task.stop_rule.tokens == [0]
