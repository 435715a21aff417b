"""How an agent is made: the checks before and after the constructor of an algorithm.

Before it, unknown arguments and values out of range (`agents.training.ranges`) raise an error, and
those that are "auto" are filled in from `agents.training.presets`. After it, every argument must be
an attribute of the same name, since `Agent.save` reads it there: a missing one raises an error now,
and not only after training.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypedDict

import torch

from agents import distributed, policies
from agents.training import presets
from agents.training.ranges import check_ranges
from textenv.arguments import checked_device, unknown_argument

AUTO: Any = "auto"  # the default of an argument that `agents.training.presets` fills in

# Arguments that are not hyper-parameters: they say where an agent learns, not how.
NOT_SAVED = {"n_envs", "env_kwargs", "policy_kwargs", "tensorboard_log", "device"}
ONE_STEP = (
    " It takes one optimiser step on each rollout, because a second one needs importance weights: "
    "micro_batch_size saves memory, and PPO takes several steps."
)


def find_device(device: str | torch.device) -> torch.device:
    """The device; "auto" is an accelerator if there is one.

    Of several processes, which meet here, each has an accelerator of its own
    (`agents.distributed`).

    Raises:
        ModuleNotFoundError: there are several processes, and accelerate is not installed.
        ValueError: PyTorch does not know it, or cannot use it here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    found = checked_device(device)
    return found if distributed.process_count() == 1 else torch.device(distributed.join(str(found)))


class Options(TypedDict, total=False):
    """The arguments that all algorithms have in common; `agents.Agent` explains them."""

    lr_schedule: str
    n_steps: int | None
    micro_batch_size: int | None
    max_grad_norm: float | None
    weight_decay: float
    adam_epsilon: float
    n_envs: int
    env_kwargs: Mapping[str, Any] | None
    policy_kwargs: Mapping[str, Any] | None
    tensorboard_log: str | None
    verbose: int
    seed: int | None
    device: str | torch.device


class Construction(type):
    """The metaclass of agents: checks and completes the arguments of a constructor."""

    def __init__(cls, name: str, bases: tuple, namespace: dict[str, Any]):
        super().__init__(name, bases, namespace)
        # `help(PPO)` shows the common arguments too, instead of **common.
        cls.__signature__ = inspect.Signature(list(_parameters(cls).values()))

    def __call__(cls, policy: Any, env: Any, **arguments: Any) -> Any:
        parameters = _parameters(cls)
        unknown = [name for name in arguments if name not in parameters]
        if unknown:
            if unknown[0] in ("batch_size", "n_epochs"):
                raise TypeError(unknown_argument(cls.__name__, unknown[0], ()) + ONE_STEP)
            raise TypeError(unknown_argument(cls.__name__, unknown[0], parameters))
        sequential = getattr(policies.find(policy), "sequential", False)
        given = arguments.get("policy_kwargs") or {}
        of_model = given.get("model"), given.get("lora")
        preset = presets.hyperparameters(cls, sequential, *of_model)
        for name, parameter in parameters.items():
            value = arguments.get(name, parameter.default)
            if name in preset and isinstance(value, str) and value == AUTO:
                arguments[name] = preset[name]
        complete = {name: arguments.get(name, p.default) for name, p in parameters.items()}
        check_ranges(complete)
        if getattr(cls, "compares_groups", False) and complete["group_size"] < 2:
            raise ValueError(
                f"group_size={complete['group_size']} must be at least 2: {cls.__name__} compares "
                "the answers to a prompt."
            )
        of_policy = presets.policy_kwargs(cls, policies.find(policy), *of_model)
        if of_policy:
            arguments["policy_kwargs"] = of_policy | dict(given)
        agent = super().__call__(policy, env, **arguments)
        for name in hyperparameter_names(cls):
            if not hasattr(agent, name):
                raise TypeError(
                    f"{cls.__name__} takes the argument {name!r} and does not store it: write "
                    f"self.{name} = {name} in its constructor, so that it can be saved."
                )
        return agent


def hyperparameter_names(cls: type) -> list[str]:
    """The names of an algorithm's arguments that are saved with it."""
    return [
        name
        for name, parameter in _parameters(cls).items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in NOT_SAVED
    ]


def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    """The constructor's parameters, with those that it passes to its base by ``**common``."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            own = list(inspect.signature(base.__init__).parameters.values())[1:]
            for parameter in own:
                parameters.setdefault(parameter.name, parameter)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own):
                break
    named = [value for value in parameters.values() if value.kind is not value.VAR_KEYWORD]
    return {value.name: value for value in sorted(named, key=lambda value: value.kind)}
