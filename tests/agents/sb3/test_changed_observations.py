"""A wrapper that changes what a language model reads is noticed, whatever it changes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
)

from agents import PPO as OurPPO
from agents.sb3 import SB3CausalLMPolicy, text_vec_env
from textenv import TextGenEnv


class Shifted(VecEnvWrapper):
    """Other tokens in the same places."""

    def reset(self):
        return self._changed(self.venv.reset())

    def step_wait(self):
        observation, *rest = self.venv.step_wait()
        return self._changed(observation), *rest

    def _changed(self, observation):
        return {**observation, "input_ids": np.minimum(observation["input_ids"] + 1, 7)}


@pytest.fixture
def kwargs(text_kwargs):
    return text_kwargs(max_new_tokens=4)


WRAPPED = {
    "stacked": lambda kwargs: VecFrameStack(text_vec_env(n_envs=2, **kwargs), 2),
    "stacked, first": lambda kwargs: VecFrameStack(
        text_vec_env(n_envs=2, **kwargs), 2, channels_order="first"
    ),
    "stacked singles": lambda kwargs: VecFrameStack(
        DummyVecEnv([lambda: TextGenEnv(**kwargs)] * 2), 2
    ),
    "normalized": lambda kwargs: VecNormalize(
        text_vec_env(n_envs=2, **kwargs), norm_obs_keys=["input_ids"]
    ),
    "shifted": lambda kwargs: Shifted(text_vec_env(n_envs=2, **kwargs)),
}


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_wrapper_that_changes_tokens_is_refused(algorithm, wrapped, kwargs, model_folder):
    with pytest.raises(ValueError, match="a wrapper, such as VecFrameStack"):
        env = WRAPPED[wrapped](kwargs)
        model = algorithm(
            SB3CausalLMPolicy, env, n_steps=4, policy_kwargs={"model": model_folder}, device="cpu"
        )
        model.learn(8)


def test_rewards_may_be_changed(kwargs, model_folder):
    env = VecNormalize(text_vec_env(n_envs=2, **kwargs), norm_obs=False)
    model = PPO(
        SB3CausalLMPolicy, env, n_steps=4, batch_size=8, policy_kwargs={"model": model_folder},
        device="cpu",
    )  # fmt: skip
    assert model.learn(8).num_timesteps == 8


def test_a_wrapper_of_gymnasium_is_refused(kwargs, model_folder):
    def make():
        return gym.wrappers.TransformObservation(
            TextGenEnv(**kwargs), lambda observation: observation, space(kwargs)
        )

    with pytest.raises(ValueError, match=r"The observation input_ids is .* a wrapper"):
        OurPPO(
            "CausalLMPolicy", gym.vector.SyncVectorEnv([make]), device="cpu",
            policy_kwargs={"model": model_folder},
        )  # fmt: skip


def space(kwargs):
    inside = TextGenEnv(**kwargs).observation_space
    wide = gym.spaces.Box(0, 7, (2 * inside["input_ids"].shape[0],), np.int64)
    return gym.spaces.Dict({**inside.spaces, "input_ids": wide})
