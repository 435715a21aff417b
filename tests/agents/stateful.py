"""A CartPole that says where it is between two steps, as the text environments do."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv


class StatefulCartPole(CartPoleEnv):
    def state_dict(self):
        return {
            "state": np.array(self.state), "beyond": self.steps_beyond_terminated,
            "generator": self.np_random.bit_generator.state,
        }  # fmt: skip

    def load_state_dict(self, state):
        self.state, self.steps_beyond_terminated = np.array(state["state"]), state["beyond"]
        self.np_random.bit_generator.state = state["generator"]


STATEFUL = "StatefulCartPole-v0"
gym.register(STATEFUL, entry_point=StatefulCartPole, max_episode_steps=30)
