"""Hyper-parameters: which arguments of an agent they are, and what fills in those that are "auto".

They are the fields of an agent's class (`textenv.arguments.Arguments`).
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from agents.training import presets

AUTO: Any = "auto"  # the default of an argument that `agents.training.presets` fills in

Schedule = Callable[[float], float]  # of the remaining progress, from 1 to 0

# Arguments that are not hyper-parameters: they say where an agent learns, not how.
NOT_SAVED = {"policy", "env", "n_envs", "env_kwargs", "policy_kwargs", "tensorboard_log", "device"}


def hyperparameter_names(cls: type) -> list[str]:
    """The names of an algorithm's arguments that are saved with it."""
    return [each.name for each in fields(cls) if each.init and each.name not in NOT_SAVED]


def state_names(cls: type) -> list[str]:
    """The names of the fields that are no arguments: what updates change, saved as well."""
    return [each.name for each in fields(cls) if not each.init]


def fill_in(agent: Any) -> None:
    """Replace what is "auto" by the presets for the agent's class, policy and model."""
    cls, policy_class, given = type(agent), agent.policy_class, agent.policy_kwargs
    of_model = given.get("model"), given.get("lora")
    sequential = getattr(policy_class, "sequential", False)
    for name, value in presets.hyperparameters(cls, sequential, *of_model).items():
        before = getattr(agent, name, None)
        if isinstance(before, str) and before == AUTO:
            setattr(agent, name, value)
    agent.policy_kwargs = presets.policy_kwargs(cls, policy_class, *of_model) | given
