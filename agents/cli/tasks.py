"""``--env``: environments that are registered with prompts, a reward and a budget of their own."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from agents.experience import environments
from textenv import TASKS
from textenv.arguments import first_line
from textenv.sharing import unwrap_shared

OF_TASK = "(task)"  # the value of an option that is left to the environment
HELD_OUT = "(held out)"  # the task's own prompts to evaluate with
OPTIONS = {"prompts": str, "reward": str, "max_new_tokens": int, "stop": list, "chat": bool}


def defaults_of(env_id: str) -> dict[str, Any]:
    """The options that an environment was registered with.

    Args:
        env_id: as `gymnasium.make` takes it; of a text environment.

    Raises:
        ValueError: there is none, or it generates no text.
    """
    try:
        registered = gym.spec(environments.imported(env_id)).kwargs
        native = environments.native_text_class(environments.imported(env_id))
    except (gym.error.Error, ImportError) as error:
        raise ValueError(
            f"--env {env_id} cannot be made ({first_line(error)}): use TextGen-v0, "
            f"{', '.join(TASKS)}, or 'module:Id-v0' of your own."
        ) from error
    if native is None:
        raise ValueError(
            f"--env {env_id} is no text environment with many rows: register it with "
            "vector_entry_point='textenv:TextGenVectorEnv', or train in it from Python."
        )
    found = {}
    for name, kind in OPTIONS.items():
        value = unwrap_shared(registered.get(name))
        if name == "stop" and value is not None:
            every = list(value) if isinstance(value, list | tuple) else [value]
            value = every if all(isinstance(stop, str) for stop in every) else [OF_TASK]
        if value is not None:
            # Rows of prompts and functions are no values of options; the environment has them.
            found[name] = value if isinstance(value, kind) else OF_TASK
    if env_id in TASKS:
        found["eval_prompts"] = HELD_OUT
        if TASKS[env_id].kl_coef is not None:
            found["kl_coef"] = TASKS[env_id].kl_coef
    return found


def evaluation_prompts(option: str | None, env_id: str) -> Any:
    """The prompts of an evaluation: those of ``--eval-prompts``, or of the task."""
    return TASKS[env_id].held_out if option == HELD_OUT else option
