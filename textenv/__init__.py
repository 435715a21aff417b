"""Token generation as a Gymnasium environment.

``import textenv`` registers ``TextGen-v0``, for ``gym.make`` and ``gym.make_vec`` alike.
"""

import gymnasium as gym

from textenv.env import TextGenEnv
from textenv.episode import Episode
from textenv.rewards import RewardError
from textenv.shaping import AdaptiveKL
from textenv.sharing import Shared
from textenv.vector_env import TextGenVectorEnv

__all__ = ["AdaptiveKL", "Episode", "RewardError", "Shared", "TextGenEnv", "TextGenVectorEnv"]

gym.register(
    id="TextGen-v0",
    entry_point="textenv.env:TextGenEnv",
    vector_entry_point="textenv.vector_env:TextGenVectorEnv",
)
