"""A CartPole and a tool that say where they are between two steps, as the text environments do."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

import textenv


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


class Quiz:
    """A tool of dialogues whose replies depend on all that it has said, and on chance."""

    def reset(self, episode, seed):
        self.generator, self.said = np.random.default_rng(seed), 0

    def __call__(self, episode):
        self.said += int(self.generator.integers(1, 4))
        return textenv.Reply("abcd"[self.said % 4], reward=0.1 * (self.said % 3))

    def state_dict(self):
        return {"generator": self.generator.bit_generator.state, "said": self.said}

    def load_state_dict(self, state):
        self.reset(None, 0)
        self.generator.bit_generator.state, self.said = state["generator"], state["said"]
