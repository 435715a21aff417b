"""PPO of stable-baselines3 on tiny random text."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import PPO

from agents.sb3 import LiveModel, SB3CausalLMPolicy, text_vec_env


@pytest.fixture(scope="session")
def make_ppo(text_kwargs, make_model):
    """``make_ppo(env={}, policy={}, kind=PPO, ...)``: SB3's PPO on tiny random text."""

    def make(env=(), policy=(), kind=PPO, n_envs=16, **kwargs):
        settings = dict(n_steps=8, batch_size=128, n_epochs=1, gamma=1.0) if kind is PPO else {}
        settings = settings | {"seed": 0, "device": "cpu"} | kwargs
        model = {"model": LiveModel(make_model())} | dict(policy)
        envs = text_vec_env(n_envs=n_envs, **text_kwargs(**({"stop": [5]} | dict(env))))
        return kind(SB3CausalLMPolicy, envs, policy_kwargs=model, **settings)

    return make


@pytest.fixture(scope="session")
def observe():
    """``observe(env, steps)``: observations along random episodes."""

    def along(env, steps: int = 4, seed: int = 0) -> list[dict]:
        env.seed(seed)
        observations, rng = [env.reset()], np.random.default_rng(seed)
        for _ in range(steps):
            observations.append(env.step(rng.integers(0, 8, env.num_envs))[0])
        return observations

    return along
