"""Zips of stable-baselines3 with a language model: the weights once, and a live model's config."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents.sb3 import LiveModel, SB3CausalLMPolicy


@pytest.mark.parametrize("source", ["live", "folder", "lora"])
def test_save_and_load(observe, source, make_ppo, make_model, model_folder, tmp_path):
    policy = {"model": LiveModel(make_model()) if source == "live" else model_folder}
    policy |= {"lora": 2} if source == "lora" else {"critic_layers": 1}
    agent = make_ppo(policy=policy, learning_rate=1e-2)
    agent.learn(128)
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent", env=agent.env)
    for observation in observe(agent.env):
        tensors = agent.policy.obs_to_tensor(observation)[0]
        for mine, own in zip(again.policy(tensors, True), agent.policy(tensors, True), strict=True):
            assert torch.equal(torch.as_tensor(mine), torch.as_tensor(own))
    moments = [a.policy.optimizer.state_dict()["state"][0]["exp_avg"] for a in (agent, again)]
    assert torch.equal(*moments)
    again.learn(128)
    agent.policy.save(tmp_path / "policy")  # the policy alone
    alone = SB3CausalLMPolicy.load(tmp_path / "policy", device="cpu")
    actions = [p.predict(observation, deterministic=True)[0] for p in (alone, agent.policy)]
    assert np.array_equal(*actions)


def test_the_zip_holds_the_weights_once(make_ppo, make_model, tmp_path):
    large = make_model(vocabulary=5000)
    large.config.tie_word_embeddings = True
    large.tie_weights()
    agent = make_ppo(policy={"model": LiveModel(large)})
    agent.save(tmp_path / "agent.zip")
    sizes = {e.filename: e.file_size for e in zipfile.ZipFile(tmp_path / "agent.zip").infolist()}
    weights = sum(p.numel() * p.element_size() for p in agent.policy.parameters())
    assert weights > 300_000 and weights < sizes["policy.pth"] < 1.2 * weights
    assert sizes["data"] < 100_000
    again = PPO.load(tmp_path / "agent.zip")
    assert again.policy_kwargs["model"].model is not large


def test_a_live_model_is_refused(make_ppo, make_model):
    with pytest.raises(ValueError, match=r"LiveModel\(model\)"):
        make_ppo(policy={"model": make_model()})
    with pytest.raises(TypeError, match="not a Linear"):
        LiveModel(torch.nn.Linear(1, 1))
