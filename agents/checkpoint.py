"""An agent in a folder: JSON for what is data, safetensors for what is tensors. Nothing is pickled.

agent.json                   algorithm, policy, hyper-parameters, steps taken
config.json, *.safetensors   the policy (a language model opens with from_pretrained)
learning.safetensors         optimiser and random generators, if they were saved
"""

from __future__ import annotations

import inspect
import json
import numbers
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def save(agent: Any, folder: Path, optimizer: bool) -> None:
    """Write ``agent`` (see `agents.Agent.save`)."""
    folder.mkdir(parents=True, exist_ok=True)
    hyperparameters = agent.hyperparameters()
    agent.policy.save(folder, _tokenizer(agent.env.unwrapped))
    description = {
        "algorithm": type(agent).__name__,
        "policy": type(agent.policy).__name__,
        "policy_kwargs": _data(agent.policy_kwargs),
        "hyperparameters": _data(hyperparameters) | {"n_envs": agent.env.num_envs},
        "functions": [
            name
            for name, value in hyperparameters.items()
            if callable(value) and value is not _default(type(agent), name)
        ],
        "num_timesteps": agent.num_timesteps,
        "learned": {name: getattr(agent, name) for name in agent.learned},
    }
    (folder / "agent.json").write_text(json.dumps(description, indent=2) + "\n")
    (folder / "learning.safetensors").unlink(missing_ok=True)  # of an agent saved here before
    if optimizer:
        tensors = {
            f"optimizer.{index}.{name}": value
            for index, entry in agent.optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        tensors["generator.policy"] = agent.policy.generator.get_state()
        tensors["generator.minibatches"] = agent.generator.get_state()
        save_file(tensors, folder / "learning.safetensors")


def load(kind: type, folder: Path, env: Any, changes: dict[str, Any]) -> Any:
    """Open the agent in ``folder`` (see `agents.Agent.load`).

    Raises:
        FileNotFoundError: there is no agent in the folder.
        ValueError: the folder holds an agent of another class, or one with hyper-parameters that
            are functions, which cannot be saved and have to be given again.
    """
    file = folder / "agent.json"
    if not file.is_file():
        raise FileNotFoundError(f"There is no agent in {str(folder)!r}: agent.json is missing.")
    description = json.loads(file.read_text())
    if description["algorithm"] != kind.__name__:
        raise ValueError(
            f"{str(folder)!r} holds a {description['algorithm']}, not a {kind.__name__}: open it "
            f"with {description['algorithm']}.load."
        )
    missing = [name for name in description["functions"] if name not in changes]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} of the agent in {str(folder)!r} are functions, which are not "
            f"saved: give them again, {kind.__name__}.load(path, env, {missing[0]}=...)."
        )
    arguments = {**description["hyperparameters"], **changes}
    from agents import policies

    policy_class = getattr(policies, description["policy"])
    policy_kwargs = {
        **description["policy_kwargs"],
        **policy_class.kwargs_for(folder),
        **arguments.pop("policy_kwargs", {}),
    }
    agent = kind(policy_class, env, policy_kwargs=policy_kwargs, **arguments)
    agent.policy.load(folder)
    agent.num_timesteps = description["num_timesteps"]
    for name, value in description["learned"].items():
        setattr(agent, name, value)
    if (folder / "learning.safetensors").is_file():
        _restore(agent, load_file(folder / "learning.safetensors"))
    return agent


def _restore(agent: Any, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    groups = agent.optimizer.state_dict()["param_groups"]
    agent.optimizer.load_state_dict({"state": state, "param_groups": groups})
    agent.policy.generator.set_state(tensors["generator.policy"].cpu())
    agent.generator.set_state(tensors["generator.minibatches"].cpu())


def _default(kind: type, name: str) -> Any:
    """The default of a constructor's argument, an algorithm's own or one that all have."""
    for base in kind.__mro__:
        parameters = inspect.signature(base.__init__).parameters
        if name in parameters:
            return parameters[name].default
    return None


def _tokenizer(env: Any) -> Any:
    """The tokenizer of a text environment, or of the first inside a vector of single ones."""
    first = getattr(env, "envs", [env])[0].unwrapped
    return getattr(first, "tokenizer", None)


def _data(values: dict[str, Any]) -> dict[str, Any]:
    """The entries that JSON can hold; live models and functions are left out."""

    def plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or isinstance(value, str | bool | numbers.Real)

    def python(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else value

    return {name: python(value) for name, value in values.items() if plain(value)}
