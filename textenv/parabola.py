"""Parabola-v0: the smallest black box, R(x) = −(x − 2)² + 10."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np


class ParabolaEnv(gym.Env):
    """Guess a number, once, for a score.

    An agent may ask what a number is worth, R(x) = −(x − 2)² + 10, but not which way is up. So it
    is with a text and its score; only here the answer is known: x = 2 is worth 10, and a Normal
    policy with mean μ and deviation σ is worth J(μ) = 10 − (μ − 2)² − σ² on average.

    ## Action space
    ``Box(-10, 10, (1,), float32)``: x.

    ## Observation space
    ``Box(0, 1, (1,), float32)``, always 0: there is nothing to see. A network's weights then play
    no part, and the mean of a policy without hidden layers is its bias.

    ## Transition
    None: an episode is one step.

    ## Reward
    R(x) = −(x − 2)² + 10.

    ## Episode end
    ``terminated`` is True at every step. In a vector environment choose the autoreset mode
    SAME_STEP, as agents do when they make it: NEXT_STEP spends every second step on resetting.

    ## Version history
    * v0: first release
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = None  # there is nothing to draw (SB3 asks everyone for "rgb_array")
        self.observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(-10, 10, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Begin an episode; nothing in it is left to chance."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray):
        """Guess. Returns observation, reward, terminated, truncated and info."""
        action = np.asarray(action)
        if action.shape != (1,):
            raise ValueError(f"action={action!r} must be one number in an array of the shape (1,).")
        reward = -((float(action[0]) - 2) ** 2) + 10
        return np.zeros(1, np.float32), reward, True, False, {}
