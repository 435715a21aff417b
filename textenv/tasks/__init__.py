"""Registered tasks: prompts, a reward, a token budget, and held-out prompts to evaluate with.

Each task has its own file. `TASKS` maps the id of each to its `TaskSpec`; ``import textenv``
registers them with Gymnasium:

    envs = gym.make_vec("Haiku-v0", num_envs=8)
    held_out = gym.make_vec("Haiku-v0", num_envs=8, prompts=TASKS["Haiku-v0"].held_out)

Arguments of the caller take precedence over those of the task. The rows are plain data, and those
that are drawn at random are the same in every process. `textenv.tasks.reasoning` makes rows of the
datasets of reasoning-gym.
"""

import gymnasium as gym

from textenv.tasks import (
    calculator,
    countdown,
    digit_sum,
    duet,
    fifteen_words,
    guess_number,
    haiku,
    last_word,
    letter_count,
    noisy_sentiment,
    reasoning,
    sentiment,
    word_reversal,
)
from textenv.tasks.spec import TaskSpec

__all__ = ["TASKS", "TaskSpec", "reasoning", "register_tasks"]

TASKS: dict[str, TaskSpec] = {
    module.TASK.id: module.TASK
    for module in (
        sentiment,
        haiku,
        digit_sum,
        letter_count,
        word_reversal,
        countdown,
        last_word,
        fifteen_words,
        noisy_sentiment,
        guess_number,
        duet,
        calculator,
    )
}


def register_tasks() -> None:
    """Register every task with Gymnasium."""
    for task in TASKS.values():
        gym.register(
            id=task.id,
            entry_point="textenv.env:TextGenEnv",
            vector_entry_point="textenv.vector_env:TextGenVectorEnv",
            kwargs=task.kwargs,
        )
