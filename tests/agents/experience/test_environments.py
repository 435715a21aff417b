"""Making, checking and binding the environment of an agent."""

from __future__ import annotations

import logging

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor
from torch.testing import assert_close

import agents
from agents import GRPO, PPO, REINFORCE, RLOO
from agents.experience import environments
from agents.experience.episodes import EpisodeCollector
from agents.experience.steps import StepCollector
from textenv import TextGenEnv

CLOSE = dict(rtol=0, atol=1e-4)


# Making it from an id


def test_an_id_makes_the_native_environment_in_its_fast_mode():
    env_kwargs = {"max_new_tokens": 4, "reward": "length"}
    agent = REINFORCE("CausalLMPolicy", "TextGen-v0", n_envs=3, env_kwargs=env_kwargs)
    assert agent.env.num_envs == 3 and isinstance(agent.collector, EpisodeCollector)
    assert agent.env.array == "torch" and agent.env.max_new_tokens == 4
    assert agent.collect().mask.shape[1] <= 4


def test_an_id_of_ones_own_is_driven_the_same_way():
    gym.register(
        "OwnText-v0", entry_point="textenv:TextGenEnv",
        vector_entry_point="textenv:TextGenVectorEnv", kwargs={"reward": "length"},
    )  # fmt: skip
    try:
        agent = RLOO("CausalLMPolicy", "OwnText-v0", n_envs=4, group_size=2)
    finally:
        gym.registry.pop("OwnText-v0")
    assert isinstance(agent.collector, EpisodeCollector) and agent.env.group_size == 2


def test_an_unknown_id_is_an_error():
    with pytest.raises(gym.error.Error):
        PPO("MlpPolicy", "NoSuch-v0")


# The tokenizer of the policy's model


TASK = {"prompts": ["a b", "c"], "reward": "length", "max_new_tokens": 4}


@pytest.fixture
def make(model_folder):
    """``make(model=..., ...)``: PPO in an environment that is made by its id."""

    def make(env="TextGen-v0", model=model_folder, **env_kwargs):
        return PPO(
            "CausalLMPolicy", env, n_envs=4, seed=0, device="cpu", policy_kwargs={"model": model},
            env_kwargs={**TASK, **env_kwargs} if isinstance(env, str) else None,
        )  # fmt: skip

    return make


def test_an_environment_made_by_its_id_gets_the_tokenizer_of_the_model(
    make, other_folder, make_tokenizer
):
    for model, backwards in ((None, False), (other_folder, True)):
        agent = make() if model is None else make(model=model)
        wanted = make_tokenizer(8, backwards).get_vocab()
        assert agent.env.tokenizer.get_vocab() == wanted
        letters = set("abcdefg <eos>")
        assert set("".join(agent.collect().episodes["response"])) <= letters


def test_the_tokenizer_that_an_id_is_registered_with_stays(make, model_folder, other_folder):
    gym.register(
        "Letters-v0", entry_point="textenv:TextGenEnv",
        vector_entry_point="textenv:TextGenVectorEnv", kwargs={"tokenizer": other_folder},
    )  # fmt: skip
    try:
        agent = make("Letters-v0", model=other_folder)
        assert agent.env.task.arguments["tokenizer"] == other_folder
        with pytest.raises(ValueError, match="The policy was made for another tokenizer"):
            make("Letters-v0", model=model_folder)
    finally:
        gym.registry.pop("Letters-v0")


@pytest.mark.parametrize("scoring", ["step", "batch"])
def test_a_policy_of_another_tokenizer_is_refused(scoring, make, make_text_envs, other_folder):
    mode = "disabled" if scoring == "batch" else "same_step"
    envs = make_text_envs(4, scoring=scoring, autoreset_mode=mode)
    sentence = "The policy was made for another tokenizer than the environment's: 'a' is id 1"
    with pytest.raises(ValueError, match=sentence):
        make(envs, model=other_folder)
    with pytest.raises(ValueError, match=sentence):
        make(SyncVectorEnv([lambda: gym.make("TextGen-v0", **TASK, tokenizer=envs.tokenizer)]),
             model=other_folder)  # fmt: skip


def test_a_tokenizer_or_a_reference_of_another_model_is_refused(make, other_folder):
    with pytest.raises(ValueError, match="The policy was made for another tokenizer"):
        make(tokenizer=other_folder)
    with pytest.raises(ValueError, match="The reference was made for another tokenizer"):
        make(reference=other_folder, kl_coef=0.1)


def test_a_reference_may_not_share_the_weights_that_learn(make, make_model, make_tokenizer):
    model, tokenizer = make_model(), make_tokenizer(8)
    with pytest.raises(ValueError, match="reference shares weights with the policy"):
        make(model=model, reference=model, kl_coef=0.1, tokenizer=tokenizer)


# A user's own environment


def test_ones_own_native_environment_is_switched_and_a_line_is_logged(make, caplog, capsys):
    envs = gym.make_vec("TextGen-v0", num_envs=4, **TASK, tokenizer=make().env.tokenizer)
    with caplog.at_level(logging.WARNING, logger="agents.experience.environments"):
        agent = make(envs)
    assert agent.env is envs and envs.scoring == "batch" and envs.array == "torch"
    (record,) = caplog.records
    assert (
        record.name == "agents.experience.environments" and "scoring='batch'" in record.getMessage()
    )
    assert not capsys.readouterr().out
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="agents.experience.environments"):
        make(envs)
        make()
    assert not caplog.records


def test_a_wrapped_environment_cannot_score_batches(make, wrapped):
    envs = wrapped(4, scoring="batch", autoreset_mode="DISABLED")
    with pytest.raises(ValueError, match="wrapped text environment is driven step by step"):
        make(envs)


def test_groups_of_agent_and_environment_must_agree(make_text_envs, make_model):
    keywords = {"policy_kwargs": {"model": make_model()}, "device": "cpu"}
    with pytest.raises(ValueError, match="groups of 4, but the environment has group_size=2"):
        GRPO("CausalLMPolicy", make_text_envs(4, group_size=2), group_size=4, **keywords)
    with pytest.raises(ValueError, match="9 rows are no multiple of group_size=2"):
        envs = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 9)
        RLOO("MlpPolicy", envs, group_size=2)


def test_policies_name_the_environments_that_they_read():
    with pytest.raises(ValueError, match="use 'CausalLMPolicy'"):
        PPO("MlpPolicy", "TextGen-v0", n_envs=2)
    with pytest.raises(ValueError, match="use 'MlpPolicy' here"):
        PPO("CausalLMPolicy", "CartPole-v1", n_envs=2)


# KL shaping in vectors of single environments


@pytest.fixture
def shaped(text_kwargs, make_model):
    """The arguments of episodes of four tokens whose rewards are shaped."""
    return text_kwargs(
        reference=make_model(seed=7), kl_coef=0.4, max_new_tokens=4, min_new_tokens=4
    )


def test_kl_shaping_in_gymnasiums_own_vector_of_single_environments(shaped, make_agent, wrapped):
    """Row i behaves as that of the native vector environment does."""
    reference = shaped["reference"]
    settings = dict(n_steps=4, learning_rate=1e-3)
    sync = SyncVectorEnv([lambda: gym.make("TextGen-v0", **shaped)] * 5, autoreset_mode="SameStep")
    native = wrapped(
        5, reference=reference, kl_coef=0.4, max_new_tokens=4, min_new_tokens=4,
        autoreset_mode="same_step",
    )  # fmt: skip
    one, other = (make_agent("PPO", envs=envs, **settings) for envs in (sync, native))
    assert isinstance(one.collector, StepCollector)
    for _ in range(3):
        found, wanted = one.collect(), other.collect()
        assert_close(found.actions, wanted.actions)
        for column in ("log_probs", "reference_log_probs", "rewards"):
            assert_close(getattr(found, column), getattr(wanted, column), **CLOSE)
        assert found.episodes["kl"] == pytest.approx(wanted.episodes["kl"], abs=1e-4)
        kl = (found.log_probs - found.reference_log_probs) * found.mask
        shaping = found.rewards[:, :-1] + 0.4 * kl[:, :-1]
        assert_close(shaping, torch.zeros_like(shaping), rtol=0, atol=1e-4)
        assert kl.abs().max() > 0.1
        for agent, rollout in ((one, found), (other, wanted)):
            agent.update(rollout)


@pytest.mark.parametrize("monitored", [False, True])
def test_kl_shaping_in_stable_baselines3s_own_vector(monitored, shaped, policy_for, make_model):
    envs = DummyVecEnv([lambda: TextGenEnv(**shaped) for _ in range(3)])
    inner = envs.envs[0]
    policy = policy_for(SyncVectorEnv([lambda: inner]), make_model())
    venv = VecMonitor(envs) if monitored else envs
    agents.bind(venv, policy)
    observation, state = venv.reset(), None
    total = np.zeros(3)
    for t in range(10):
        actions, log_probs, _, state = policy.act(observation, state)
        observation, rewards, dones, infos = venv.step(actions.numpy())
        for row, info in enumerate(infos):
            kl = log_probs[row].item() - info["ref_log_prob"]
            score = info.get("score", 0.0)
            assert rewards[row] == pytest.approx(score - 0.4 * kl, abs=1e-4)
            total[row] += abs(kl)
        assert dones.all() == ((t + 1) % 4 == 0)
    assert (total > 0.1).all()


def test_text_in_other_processes_is_refused_by_name(text_kwargs, make_agent):
    envs = AsyncVectorEnv([lambda: gym.make("TextGen-v0", **text_kwargs())] * 2)
    try:
        with pytest.raises(ValueError, match="AsyncVectorEnv runs its text environments in other"):
            make_agent("PPO", envs=envs)
    finally:
        envs.close()


@pytest.mark.parametrize("monitored", [False, True])
def test_text_in_the_processes_of_stable_baselines3_is_refused_too(
    monitored, text_kwargs, make_text_envs, policy_for, make_model
):
    policy = policy_for(make_text_envs(1), make_model())
    envs = SubprocVecEnv([lambda: TextGenEnv(**text_kwargs())], start_method="fork")
    try:
        with pytest.raises(ValueError, match="SubprocVecEnv runs its text environments in other"):
            agents.bind(VecMonitor(envs) if monitored else envs, policy)
    finally:
        envs.close()


def test_other_environments_may_live_in_other_processes():
    envs = AsyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    try:
        rollout = PPO("MlpPolicy", envs, n_steps=8, seed=0, device="cpu").collect()
    finally:
        envs.close()
    assert rollout.num_steps > 8
    assert environments.text_environments(envs) == []


def test_a_registered_task_has_its_own_beta_where_there_is_a_reference():
    own = environments.with_own_kl_coef
    assert own("Duet-v0", {"reference": "bundled"}) == {"reference": "bundled", "kl_coef": 0.03}
    assert own("Duet-v0", {"reference": "bundled", "kl_coef": 0.5})["kl_coef"] == 0.5
    assert own("Duet-v0", None) == {}  # KL to nothing costs nothing
    assert own("TextGen-v0", {"reference": "bundled"}) == {"reference": "bundled"}
    for task in agents.SUITES["small"].tasks:
        assert own(task, {"reference": "bundled"})["kl_coef"] > 0  # else it has no known optimum
