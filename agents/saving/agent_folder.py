"""An agent in a folder: JSON for data, safetensors for tensors. Nothing is pickled.

agent.json                   algorithm, policy, hyper-parameters, task, steps taken
config.json, *.safetensors   the policy (from_pretrained can open a language model)
learning.json, learning.safetensors   what learning needs to go on exactly (agents.saving.resume)

A folder is replaced as a whole, so that a reader finds the old agent or the new one. What a file
holds is only data: no code that it names is imported, and it sets only the hyper-parameters that an
agent saves.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from agents import distributed, files, policies
from agents.experience import environments
from agents.saving import resume
from agents.training.hyperparameters import hyperparameter_names, state_names
from textenv.arguments import as_path
from textenv.sharing import is_data, plain

DESCRIPTION = "agent.json"
CONTENT = {  # of agent.json, with the types of its values
    "algorithm": str, "policy": str, "policy_kwargs": dict, "hyperparameters": dict,
    "functions": list, "n_envs": int, "persistent_state": dict, "kl_coef": int | float | None,
    "task": dict | None, "num_timesteps": int,
}  # fmt: skip
OPTIONAL = {  # what an earlier release may not have written
    "num_rollouts": int, "learning_seconds": int | float, "last_return": int | float | None,
    "live": list, "files": list,
}  # fmt: skip
COUNTS = ("num_timesteps", "num_rollouts", "learning_seconds")
ATTENTION = (None, "eager", "sdpa")  # the names that a file may give
# Where the agent of a run is, in its folder (see agents.runs.folder); the newest state first.
IN_A_RUN = ("checkpoints/newest", "agent")


def save(agent: Any, folder: Path, optimizer: bool, **notes: Any) -> None:
    """Write ``agent`` (see `agents.Agent.save`), and ``notes`` into its description."""
    with files.replacing(folder) as new:
        others = _other_files(folder)  # where a killed process has left it, it is back by now
        texts = environments.text_environments(agent.env)
        agent.policy.save(new, texts[0].tokenizer if texts else None)
        if optimizer:
            resume.write(agent, new)
        description = describe_agent(agent) | notes
        description["files"] = sorted(path.name for path in new.iterdir())
        files.write_json(new / DESCRIPTION, description)
        for path in others:
            if not (new / path.name).exists():
                files.link(path, new / path.name)


def describe_agent(agent: Any) -> dict[str, Any]:
    """Algorithm, policy, hyper-parameters, counts and task of an agent, as data."""
    values = {name: getattr(agent, name) for name in hyperparameter_names(type(agent))}
    hyperparameters, of_policy = _data(values), _data(agent.policy_kwargs)
    found_again = {**of_policy, **agent.policy.kwargs_for(Path())}
    schedules = environments.schedules(agent.env)
    parameters = inspect.signature(type(agent)).parameters
    return {
        "algorithm": type(agent).__name__,
        "policy": type(agent.policy).__name__,
        "policy_kwargs": of_policy,
        "live": [name for name in agent.policy_kwargs if name not in found_again],
        "hyperparameters": hyperparameters,
        "functions": [
            name
            for name, value in values.items()
            if name not in hyperparameters and value is not parameters[name].default
        ],
        **{name: getattr(agent, name) for name in COUNTS},
        "persistent_state": {name: getattr(agent, name) for name in state_names(type(agent))},
        "kl_coef": schedules[0].value if schedules else None,
        "n_envs": agent.env.num_envs * distributed.process_count(),
        "task": environments.describe(agent.env),
    }


def _other_files(folder: Path) -> list[Path]:
    """What is in the folder and does not belong to an agent that was saved there before."""
    entries = list(folder.iterdir()) if folder.is_dir() else []
    if folder.resolve() == Path.cwd():
        raise FileExistsError(
            f"The folder {str(folder)!r} is the current one, and saving replaces a folder: name "
            "another one."
        )
    if not entries:
        return []
    if not (folder / DESCRIPTION).is_file():
        raise FileExistsError(
            f"The folder {str(folder)!r} is not empty and holds no agent: save to another one."
        )
    try:
        known = describe(folder)["files"]
    except (KeyError, ValueError):  # of an earlier release, or damaged
        raise FileExistsError(
            f"The file agent.json in {str(folder)!r} does not name the files of its agent: remove "
            "the folder, or save to another one."
        ) from None
    return [entry for entry in entries if entry.name not in (*known, DESCRIPTION)]


def find(folder: str | Path) -> Path:
    """The folder of an agent: the folder itself, or the newest agent in the folder of a run."""
    for place in ("", *IN_A_RUN):
        candidate = files.current(as_path(folder) / place)
        if (candidate / DESCRIPTION).is_file():
            return candidate
    return as_path(folder)


def describe(folder: Path) -> dict[str, Any]:
    """The content of ``agent.json``; FileNotFoundError if there is none."""
    file = folder / DESCRIPTION
    if not file.is_file():
        what = "agent.json is missing" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"There is no agent in {str(folder)!r}: {what}.")
    description = files.read_json(file, CONTENT, OPTIONAL)
    with files.reading(file):
        check_task(description["task"])
    return description


def check_task(task: Any) -> None:
    """Raise a TypeError for what `environments.describe` would not write."""
    if task is not None:
        files.check_kind("the id of the task", task["id"], str)
        files.check_kind("the arguments of the task", task["kwargs"], dict)
        files.check_kind("the live arguments of the task", task.get("live", []), list)


def load(cls: type, folder: Path, env: Any, policy: type | None, changes: dict[str, Any]) -> Any:
    """Load the agent in ``folder`` (see `agents.Agent.load`).

    A run may replace the folder meanwhile; then the new one is loaded.
    """
    while True:
        found = find(folder)
        before = _version(found)
        try:
            agent = _load(cls, found, env, policy, dict(changes))
        except Exception:
            if _version(found) == before:
                raise
        else:
            if _version(found) == before:
                return agent


def _version(folder: Path) -> tuple[int, int] | None:
    """What differs when the agent in the folder has been replaced; None without an agent."""
    try:
        status = (folder / DESCRIPTION).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _load(cls: type, folder: Path, env: Any, policy: type | None, changes: dict[str, Any]) -> Any:
    given = env
    description = describe(folder)
    _check(cls, folder, description, policy, changes)
    arguments = {"n_envs": description["n_envs"], **description["hyperparameters"], **changes}
    policy_class: Any = policies.find(description["policy"]) if policy is None else policy
    attention = description["policy_kwargs"].get("attn_implementation")
    if attention not in ATTENTION and "attn_implementation" not in (
        changes.get("policy_kwargs") or {}
    ):
        raise ValueError(
            f"The file agent.json in {str(folder)!r} has attn_implementation={attention!r}, which "
            "may name code. Code that a file names is not loaded: name it yourself, "
            "policy_kwargs={'attn_implementation': ...}."
        )
    arguments["policy_kwargs"] = {
        **description["policy_kwargs"],
        **policy_class.kwargs_for(folder),
        **(changes.get("policy_kwargs") or {}),
    }
    env = _environment(folder, env, description["task"], arguments)
    try:
        agent = cls(policy_class, env, **arguments)
    except (AttributeError, KeyError, SafetensorError):  # of who reads the files of the model
        with files.reading(folder):
            raise
    with files.reading(folder):
        agent.policy.load(folder)
    for name in COUNTS:
        setattr(agent, name, description.get(name, 0))
    with files.reading(folder / DESCRIPTION):
        saved = description["persistent_state"]
        if saved.keys() - {*state_names(cls), *hyperparameter_names(cls)}:
            raise KeyError(f"persistent_state has {', '.join(saved)}")
        for name in state_names(cls):
            setattr(agent, name, saved[name])
    environments.set_schedules(agent.env, description["kl_coef"])
    with files.reading(folder):
        same_task = given is None and not {"env_kwargs", "n_envs"} & changes.keys()
        resume.restore(agent, folder, same_task)
    agent.gather()
    return agent


def _check(
    cls: type, folder: Path, description: dict[str, Any], policy: Any, changes: dict[str, Any]
) -> None:
    """Raise an error for an agent of another class, or if an argument must be given again."""
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
    given = changes.get("policy_kwargs") or {}
    live = [name for name in description.get("live", ()) if name not in given]
    if live:
        raise ValueError(
            f"{', '.join(live)} of the policy in {where!r} are live objects, which are not saved: "
            f"give them again, {name}.load(path, policy_kwargs={{{live[0]!r}: ...}})."
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
        # Of a text task, whose tokenizer is saved with the model.
        if "tokenizer" in {*task["kwargs"], *task["live"]}:
            given = {"tokenizer": str(folder), **given}
        arguments["env_kwargs"] = environments.saved_arguments(task, given)
    else:
        arguments["env_kwargs"] = given
    return env


def _data(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that JSON can hold; live models and functions are left out."""
    return {name: plain(value) for name, value in values.items() if is_data(plain(value))}
