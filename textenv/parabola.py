"""Parabola-v0: the smallest black-box problem, R(x) = −(x − 2)² + 10."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np


class ParabolaEnv(gym.Env):
    """Choose one number and receive a reward for it.

    An agent can query the reward of a number, R(x) = −(x − 2)² + 10, but not its gradient. The same
    holds for a text and its score, but here the solution is known: the best reward is 10, at x = 2,
    and the expected reward of a Normal policy with mean μ and standard deviation σ is
    J(μ) = 10 − (μ − 2)² − σ².

    ## Action space
    ``Box(-10, 10, (1,), float32)``: x.

    ## Observation space
    ``Box(0, 1, (1,), float32)``, always 0: the state has no information. A network's weights then
    have no effect, and the mean of a policy without hidden layers is its bias.

    ## Transition
    None: an episode is one step.

    ## Reward
    R(x) = −(x − 2)² + 10.

    ## Episode end
    ``terminated`` is True at every step. In a vector environment use the autoreset mode
    SAME_STEP, as agents do when they make it: with NEXT_STEP every second step is only a reset.

    ## Version history
    * v0: first release
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = None  # there is nothing to draw (SB3 always passes "rgb_array")
        self.observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(-10, 10, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None):
        """Begin an episode; nothing in it is random."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray):
        """Evaluate a number. Returns observation, reward, terminated, truncated and info."""
        action = np.asarray(action)
        if action.shape != (1,):
            raise ValueError(f"action={action!r} must be one number in an array of the shape (1,).")
        reward = -((float(action[0]) - 2) ** 2) + 10
        return np.zeros(1, np.float32), reward, True, False, {}
