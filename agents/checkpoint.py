"""An agent in a folder: JSON for data, safetensors for tensors. Nothing is pickled.

agent.json                   algorithm, policy, hyper-parameters, task, steps taken
config.json, *.safetensors   the policy (from_pretrained can open a language model)
learning.safetensors         optimiser and random generators, if they were saved

The content of a file is only data: no code that it names is imported, and it sets only the
hyper-parameters that an agent saves.
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

from agents import environments, policies
from agents.construction import hyperparameter_names


def save(agent: Any, folder: Path, optimizer: bool) -> None:
    """Write ``agent`` (see `agents.Agent.save`)."""
    folder.mkdir(parents=True, exist_ok=True)
    hyperparameters = {name: getattr(agent, name) for name in hyperparameter_names(type(agent))}
    schedules = environments.schedules(agent.env)
    agent.policy.save(folder, _tokenizer(agent.env))
    description = {
        "algorithm": type(agent).__name__,
        "policy": type(agent.policy).__name__,
        "policy_kwargs": _data(agent.policy_kwargs),
        "hyperparameters": _data(hyperparameters),
        "functions": [
            name
            for name, value in hyperparameters.items()
            if callable(value) and value is not _default(type(agent), name)
        ],
        "num_timesteps": agent.num_timesteps,
        "persistent_state": {name: getattr(agent, name) for name in agent.persistent_state},
        "kl_coef": schedules[0].value if schedules else None,
        "n_envs": agent.env.num_envs,
        "task": environments.describe(agent.env),
    }
    (folder / "agent.json").write_text(json.dumps(description, indent=2) + "\n")
    (folder / "learning.safetensors").unlink(missing_ok=True)  # from an agent saved here before
    if optimizer:
        tensors = {
            f"optimizer.{index}.{name}": value
            for index, entry in agent.optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        tensors["generator.policy"] = agent.policy.generator.get_state()
        tensors["generator.minibatches"] = agent.generator.get_state()
        save_file(tensors, folder / "learning.safetensors")


def describe(folder: Path) -> dict[str, Any]:
    """The content of ``agent.json``.

    Raises:
        FileNotFoundError: there is no agent in the folder.
    """
    file = folder / "agent.json"
    if not file.is_file():
        raise FileNotFoundError(f"There is no agent in {str(folder)!r}: agent.json is missing.")
    return json.loads(file.read_text())


def load(cls: type, folder: Path, env: Any, policy: type | None, changes: dict[str, Any]) -> Any:
    """Load the agent in ``folder`` (see `agents.Agent.load`)."""
    description = describe(folder)
    _check(cls, folder, description, policy, changes)
    arguments = {"n_envs": description["n_envs"], **description["hyperparameters"], **changes}
    policy_class: Any = policies.find(description["policy"]) if policy is None else policy
    arguments["policy_kwargs"] = {
        **description["policy_kwargs"],
        **policy_class.kwargs_for(folder),
        **(changes.get("policy_kwargs") or {}),
    }
    env = _environment(folder, env, description["task"], arguments)
    agent = cls(policy_class, env, **arguments)
    agent.policy.load(folder)
    agent.num_timesteps = description["num_timesteps"]
    for name in agent.persistent_state:
        setattr(agent, name, description["persistent_state"][name])
    environments.set_schedules(agent.env, description["kl_coef"])
    if (folder / "learning.safetensors").is_file():
        _restore(agent, load_file(folder / "learning.safetensors"))
    return agent


def _check(
    cls: type, folder: Path, description: dict[str, Any], policy: Any, changes: dict[str, Any]
) -> None:
    """Raise an error for an agent of another class, or if an argument must be given again.

    Raises:
        ValueError: the message says what is wrong, and how to fix it.
    """
    where, name = str(folder), cls.__name__
    if description["algorithm"] != name:
        raise ValueError(
            f"{where!r} holds a {description['algorithm']}, not a {name}: open it with "
            f"{description['algorithm']}.load."
        )
    if policy is None and description["policy"] not in policies.NAMES:
        raise ValueError(
            f"The policy of the agent in {where!r} is a custom class, "
            f"{description['policy']}: name it, {name}.load(path, policy={description['policy']})."
        )
    missing = [name for name in description["functions"] if name not in changes]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} of the agent in {where!r} are functions, which are not saved: "
            f"give them again, {name}.load(path, {missing[0]}=...)."
        )
    unknown = set(description["hyperparameters"]) - set(hyperparameter_names(cls))
    if unknown:
        raise ValueError(
            f"The file agent.json in {where!r} sets {', '.join(sorted(unknown))}, which no {name} "
            "saves: it was not written by this class."
        )


def _environment(folder: Path, env: Any, task: Any, arguments: dict[str, Any]) -> Any:
    """The environment to load into: the caller's own, or the id and arguments of the saved task."""
    given = dict(arguments.pop("env_kwargs", None) or {})
    if env is not None and not isinstance(env, str):
        return env
    if env is None and task is None:
        raise ValueError(
            f"The environment of the agent in {str(folder)!r} cannot be made again, because it "
            "was wrapped or never registered: pass env=."
        )
    if task is not None and (env is None or environments.imported(env) == task["id"]):
        env = task["id"]
        if environments.is_text_task(task):  # the tokenizer is saved with the model
            given = {"tokenizer": str(folder), **given}
        arguments["env_kwargs"] = environments.saved_arguments(task, given)
    else:
        arguments["env_kwargs"] = given
    return env


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


def _default(cls: type, name: str) -> Any:
    return inspect.signature(cls).parameters[name].default


def _tokenizer(env: Any) -> Any:
    """The tokenizer of a text environment, or of the first one in a vector of single ones."""
    found = environments.text_environments(env)
    return found[0].tokenizer if found else None


def _data(values: dict[str, Any]) -> dict[str, Any]:
    """The entries that JSON can hold; live models and functions are left out."""

    def plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or isinstance(value, str | bool | numbers.Real)

    def python(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else value

    return {name: python(value) for name, value in values.items() if plain(value)}
