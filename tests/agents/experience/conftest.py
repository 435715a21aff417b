"""An environment that counts, so that each recorded number can be told."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Count(gym.Env):
    """Counts up from its seed's start; terminates after ``length`` steps, or never."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, length: int | None, base: float):
        self.length, self.base, self.episode = length, base, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.observation(), {}

    def step(self, action):
        self.t += 1
        reward = self.base + self.episode + 0.1 * self.t + 0.01 * int(action)
        return self.observation(), reward, self.t == self.length, False, {}

    def observation(self) -> np.ndarray:
        return np.array([self.base + self.episode, self.t], np.float32)


@pytest.fixture(scope="session")
def counting_envs() -> Callable:
    """``counting_envs(mode)``: row 0 terminates after 3 steps, row 1 is cut short after 4, row 2
    goes on for 50."""

    def make(mode: AutoresetMode) -> SyncVectorEnv:
        return SyncVectorEnv(
            [
                lambda: Count(3, 10.0),
                lambda: gym.wrappers.TimeLimit(Count(None, 20.0), 4),
                lambda: Count(50, 30.0),
            ],
            autoreset_mode=mode,
        )

    return make
