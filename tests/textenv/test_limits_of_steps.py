"""A limit of steps below the token budget would take the score of every episode."""

from __future__ import annotations

import warnings

import gymnasium as gym
import pytest

from agents import PPO
from textenv import TextGenEnv, TextGenVectorEnv


@pytest.fixture
def registered(make_env):
    """``registered(limit)``: an id with a limit of steps, and a budget of six tokens."""
    ids = []

    def register(limit):
        ids.append(f"Limited{limit}-v0")
        gym.register(
            ids[-1], entry_point=TextGenEnv, vector_entry_point=TextGenVectorEnv,
            max_episode_steps=limit, kwargs={"prompts": ["a"], "max_new_tokens": 6},
        )  # fmt: skip
        return ids[-1]

    yield register
    for name in ids:
        del gym.registry[name]


def test_a_limit_below_the_budget_is_refused(registered):
    name = registered(3)
    with pytest.raises(ValueError, match=r"max_episode_steps=3 is below max_new_tokens=6"):
        gym.make_vec(name, num_envs=2)
    with pytest.raises(ValueError, match=r"max_episode_steps=3 is below max_new_tokens=6"):
        gym.make(name).reset()
    with pytest.raises(ValueError, match=r"max_episode_steps=3 is below max_new_tokens=6"):
        gym.make_vec(name, num_envs=2, vectorization_mode="sync").reset()
    with pytest.raises(ValueError, match=r"max_episode_steps=3 is below max_new_tokens=6"):
        PPO("CausalLMPolicy", name, n_envs=2, device="cpu")


@pytest.mark.parametrize("limit", [6, 100])
def test_a_limit_from_the_budget_on_changes_nothing(limit, registered):
    name = registered(limit)
    assert PPO("CausalLMPolicy", name, n_envs=2, device="cpu").learn(4).num_timesteps >= 4
    env = gym.make(name)
    env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(12):
            _, _, terminated, truncated, _ = env.step(300)
            if terminated or truncated:
                env.reset()


def test_an_agent_warns_of_a_wrapper_that_cuts_episodes(caplog):
    """It learns all the same: a critic can bootstrap from where they are cut off."""
    limited = gym.wrappers.TimeLimit(TextGenEnv(prompts=["a"], max_new_tokens=6), 3)
    PPO("CausalLMPolicy", limited, device="cpu")
    assert "max_episode_steps=3 is below max_new_tokens=6" in caplog.text


def test_a_wrapper_that_cuts_every_episode_is_named():
    env = gym.wrappers.TimeLimit(TextGenEnv(prompts=["a"], max_new_tokens=6), 3)
    with pytest.warns(UserWarning, match=r"5 episodes were reset 3 tokens before the end"):
        for _ in range(7):
            env.reset()
            for _ in range(3):
                env.step(300)
