"""Token generation as a Gymnasium environment.

``import textenv`` registers ``TextGen-v0``, for ``gym.make`` and ``gym.make_vec``; tasks with
prompts, a reward and a token budget of their own, such as ``Haiku-v0`` (`textenv.tasks`); and
``Parabola-v0``, a black-box function of one number.
"""

import gymnasium as gym

from textenv.dialogues import Reply, RespondError
from textenv.env import TextGenEnv
from textenv.episode import Episode, Turn
from textenv.kl.schedules import AdaptiveKL
from textenv.kl.shaping import ActionRecord
from textenv.parabola import ParabolaEnv
from textenv.rewards import RewardError
from textenv.sharing import Shared
from textenv.tasks import TASKS, TaskSpec, register_tasks
from textenv.vector_env import TextGenVectorEnv

__all__ = [
    "TASKS", "ActionRecord", "AdaptiveKL", "Episode", "ParabolaEnv", "Reply", "RespondError",
    "RewardError", "Shared", "TaskSpec", "TextGenEnv", "TextGenVectorEnv", "Turn",
]  # fmt: skip

gym.register(
    id="TextGen-v0",
    entry_point="textenv.env:TextGenEnv",
    vector_entry_point="textenv.vector_env:TextGenVectorEnv",
)
gym.register(id="Parabola-v0", entry_point="textenv.parabola:ParabolaEnv")
register_tasks()
