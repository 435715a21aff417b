"""What agents refuse, each with a sentence that says how to mend it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import GRPO, PPO, REINFORCE, RLOO, TRPO
from textenv.lm import load_model

TEXT = {"n_envs": 4, "device": "cpu", "env_kwargs": {"max_new_tokens": 4}}


def test_weights_that_learn_must_be_float32():
    model = load_model("bundled", dtype=torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"weights that learn are torch.bfloat16.*dtype=torch.floa"
    ):
        PPO("CausalLMPolicy", "TextGen-v0", policy_kwargs={"model": model}, **TEXT)


def test_a_live_model_keeps_the_attention_it_was_loaded_with():
    model = load_model("bundled")
    with pytest.raises(ValueError, match="loaded with attn_implementation='sdpa', not 'eager'"):
        TRPO("CausalLMPolicy", "TextGen-v0", policy_kwargs={"model": model}, **TEXT)


def test_trpo_loads_a_model_as_it_needs_it():
    agent = TRPO("CausalLMPolicy", "TextGen-v0", fisher_rows=2, cg_max_steps=2, **TEXT)
    metrics = agent.update(agent.collect())
    assert 0 <= metrics["kl"] <= agent.target_kl


def test_a_reference_may_not_share_the_weights_that_learn():
    model = load_model("bundled")
    keywords = {**TEXT, "env_kwargs": {"reference": model, "kl_coef": 0.1}}
    with pytest.raises(ValueError, match="reference shares weights with the policy"):
        PPO("CausalLMPolicy", "TextGen-v0", policy_kwargs={"model": model}, **keywords)


def test_groups_need_whole_episodes():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(
        gym.make_vec("TextGen-v0", num_envs=4, group_size=2, max_new_tokens=4)
    )
    agent = RLOO("CausalLMPolicy", envs, group_size=2, n_steps=8, device="cpu")
    with pytest.raises(ValueError, match="one whole episode in each row"):
        agent.learn(10)
    with pytest.raises(ValueError, match="one whole episode in each row"):
        REINFORCE("MlpPolicy", "CartPole-v1", return_to_go=False, n_envs=2, device="cpu").learn(10)


def test_groups_of_agent_and_environment_must_agree():
    envs = gym.make_vec("TextGen-v0", num_envs=4, group_size=2)
    with pytest.raises(ValueError, match="groups of 4, but the environment has group_size=2"):
        GRPO("CausalLMPolicy", envs, group_size=4, device="cpu")


def test_a_wrapped_environment_cannot_score_batches():
    envs = gym.make_vec("TextGen-v0", num_envs=2, autoreset_mode="DISABLED", scoring="batch")
    with pytest.raises(ValueError, match="wrapped text environment is driven step by step"):
        PPO("CausalLMPolicy", gym.wrappers.vector.RecordEpisodeStatistics(envs), device="cpu")


def test_a_penalty_in_the_loss_needs_a_reference():
    agent = GRPO("CausalLMPolicy", "TextGen-v0", group_size=2, **TEXT)
    with pytest.raises(ValueError, match=r"kl_penalty > 0 needs a reference.*reference="):
        agent.learn(4)


def test_an_adaptive_penalty_begins_above_zero():
    with pytest.raises(ValueError, match="begin with one above 0"):
        PPO("MlpPolicy", "CartPole-v1", kl_penalty_target=0.01)


def test_the_adaptive_penalty_sees_the_kl_of_the_last_step():
    """With one step a rollout the KL of that step's own loss is 0, which would halve β for ever."""
    agent = PPO(
        "MlpPolicy", "CartPole-v1", n_envs=2, n_steps=64, n_epochs=1, learning_rate=0.05, seed=0,
        kl_penalty=0.5, kl_penalty_target=1e-6, clip_range=None, device="cpu",
    )  # fmt: skip
    metrics = agent.update(agent.collect())
    assert metrics["first_approx_kl"] == 0 < metrics["kl_after"]
    assert agent.kl_penalty == 1.0  # doubled: far above the target


def test_a_gradient_that_is_not_finite_stops_learning():
    agent = PPO("MlpPolicy", "CartPole-v1", n_envs=2, n_steps=8, device="cpu", seed=0)
    rollout = agent.collect()
    rollout.rewards[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match=r"gradient is not finite.*learning_rate"):
        agent.update(rollout)


def test_functions_among_hyper_parameters_are_asked_for_again(tmp_path):
    agent = PPO("MlpPolicy", "CartPole-v1", n_envs=3, learning_rate=lambda left: 1e-3 * left)
    agent.save(tmp_path)
    with pytest.raises(ValueError, match=r"learning_rate of the agent .* are functions"):
        PPO.load(tmp_path, "CartPole-v1")
    again = PPO.load(tmp_path, "CartPole-v1", learning_rate=1e-3)
    assert again.env.num_envs == 3


def test_default_functions_need_no_asking(tmp_path):
    agent = GRPO("CausalLMPolicy", "TextGen-v0", group_size=2, kl_penalty=0.0, **TEXT)
    agent.save(tmp_path, optimizer=False)
    assert GRPO.load(tmp_path, "textenv:TextGen-v0").compare is agent.compare


def test_mlp_policy_names_the_spaces_it_reads():
    with pytest.raises(ValueError, match="FlattenObservation"):
        PPO("MlpPolicy", "TextGen-v0", n_envs=2)
    with pytest.raises(ValueError, match="use 'MlpPolicy' here"):
        PPO("CausalLMPolicy", "CartPole-v1", n_envs=2)


def test_reinforce_needs_an_episode_that_ends():
    agent = REINFORCE("MlpPolicy", "CartPole-v1", n_envs=2, n_steps=4, device="cpu")
    with pytest.raises(ValueError, match=r"No episode ended within .* raise n_steps"):
        agent.learn(8)


def test_reinforce_leaves_unfinished_episodes_out():
    agent = REINFORCE("MlpPolicy", "CartPole-v1", n_envs=2, n_steps=128, device="cpu", seed=0)
    rollout = agent.collect()
    lasts = [np.flatnonzero(row)[-1] for row in rollout.ended.numpy()]
    assert rollout.completed.sum(dim=1).tolist() == [last + 1 for last in lasts]
    assert not rollout.completed[0, lasts[0] + 1 :].any()
