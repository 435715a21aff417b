"""Making, checking, binding and describing the environment of an agent."""

import dataclasses
import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from gymnasium.envs.registration import VectorizeMode
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.experience.env_checks import check_arguments, check_environment
from textenv import TASKS
from textenv.env import TextGenEnv
from textenv.kl.schedules import FixedKL, KLSchedule
from textenv.lm.loading import end_tokens, ends_of_model
from textenv.rewards import names_code
from textenv.sharing import is_data, plain, unwrap_shared
from textenv.vector_env import TextGenVectorEnv

log = logging.getLogger(__name__)

# Environments in other processes: a policy that is bound there is a copy that never acts.
IN_OTHER_PROCESSES = ("AsyncVectorEnv", "SubprocVecEnv")

OF_MAKE_VEC = ("num_envs", "vector_kwargs", "wrappers")  # what it adds to a spec's arguments


# --- making and checking ------------------------------------------------------------------------


def for_agent(
    env: str | gym.Env | VectorEnv,
    policy_class: Any,
    policy_kwargs: Mapping[str, Any],
    n_envs: int,
    env_kwargs: Mapping[str, Any] | None,
    group_size: int,
    device: torch.device,
) -> VectorEnv:
    """The environment that an agent learns in; its arguments are those of `agents.Agent`.

    A text environment that is made here gets the tokenizer of the policy's model.
    """
    check_environment(env)
    if isinstance(env, str):
        keywords = dict(env_kwargs or {})
        native = native_text_class(imported(env))
        if native is not None:
            check_arguments(native, keywords)
            of_policy: Any = getattr(policy_class, "env_kwargs", lambda _: {})
            registered = gym.spec(imported(env)).kwargs
            for name, value in of_policy(policy_kwargs).items():
                if name not in registered:
                    keywords.setdefault(name, value)
            stops = _ends_of_the_model(policy_kwargs.get("model"), registered | keywords)
            if stops is not None:
                keywords["stop"] = stops
        env = make(env, n_envs, keywords, group_size, device)
    else:
        env = prepare(env, device)
    check_groups(env, group_size)
    _check_observations(env)
    return env


def _check_observations(env: Any) -> None:
    """Raise a ValueError if a wrapper gives tokens that are not those of the text environment."""
    outside: Any = getattr(env, "single_observation_space", None)
    tokens = getattr(outside, "spaces", {}).get("input_ids")
    for text in text_environments(env)[:1]:
        own = text.task.spaces[0]["input_ids"]
        if tokens is not None and tokens != own:
            raise ValueError(
                f"The observation input_ids is {tokens}, but the text environment gives {own}: a "
                "wrapper, such as FrameStackObservation, changes it; remove the wrapper."
            )


def _ends_of_the_model(model: Any, arguments: Mapping[str, Any]) -> list[Any] | None:
    """The ``stop`` of an environment whose tokenizer does not lie beside the policy's model, so
    that it ends what the model ends; None where that needs nothing."""
    tokenizer, stop = (unwrap_shared(arguments.get(name)) for name in ("tokenizer", "stop"))
    if tokenizer is None or tokenizer == model:
        return None
    known = [] if isinstance(tokenizer, str | os.PathLike) else end_tokens(tokenizer)
    missing = [token for token in ends_of_model(model) if token not in known]
    if not missing:
        return None
    given = stop if isinstance(stop, list | tuple) else [] if stop is None else [stop]
    return [*given, *(token for token in missing if token not in given)]


def make(
    env_id: str, n_envs: int, env_kwargs: Mapping[str, Any], group_size: int, device: torch.device
) -> VectorEnv:
    """The vector environment of an id as `gymnasium.make` takes it, ``"package:Id-v0"`` included.

    A native text environment is in its fast mode, on ``device``, and ``group_size`` consecutive
    rows of it begin with the same prompt.
    """
    env_id = imported(env_id)
    keywords = with_own_kl_coef(env_id, env_kwargs)
    if native_text_class(env_id) is not None:
        fast = {
            "autoreset_mode": AutoresetMode.DISABLED, "scoring": "batch", "array": "torch",
            "copy": False, "device": str(device), "group_size": group_size,
        }  # fmt: skip
        return gym.make_vec(env_id, num_envs=n_envs, **{**fast, **keywords})
    spec = gym.spec(env_id)
    if "max_episode_steps" in keywords:  # `gymnasium.make` takes it, but `make_vec` does not
        spec = dataclasses.replace(spec, max_episode_steps=keywords.pop("max_episode_steps"))
    if spec.vector_entry_point is None:
        # NEXT_STEP, the default, would use one step for each reset.
        keywords.setdefault("vector_kwargs", {"autoreset_mode": AutoresetMode.SAME_STEP})
    return gym.make_vec(spec, num_envs=n_envs, **keywords)


def with_own_kl_coef(env_id: str, env_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of an environment, with the β of a registered task where a reference is given
    and no β."""
    keywords = dict(env_kwargs or {})
    own = TASKS[env_id].kl_coef if env_id in TASKS else None
    if own is not None and keywords.get("reference") is not None:
        keywords.setdefault("kl_coef", own)
    return keywords


def prepare(env: gym.Env | VectorEnv, device: torch.device) -> VectorEnv:
    """Prepare a user's own environment for an agent.

    A native text environment that is not wrapped is switched to ``scoring="batch"`` and torch
    arrays, which is its fast mode; this is logged. All others are used as they are.
    """
    if isinstance(env, gym.Env):
        single = env
        env = gym.vector.SyncVectorEnv([lambda: single], autoreset_mode=AutoresetMode.SAME_STEP)
    if isinstance(env, TextGenVectorEnv):
        if (env.scoring, env.array, env.device.type) != ("batch", "torch", device.type):
            log.warning(
                "The text environment now uses autoreset_mode=DISABLED, scoring='batch' and "
                "torch arrays on %s; use it in this mode if you step it yourself later.", device
            )  # fmt: skip
            env.reconfigure(AutoresetMode.DISABLED, "batch", "torch", device, copy=False)
    elif getattr(env.unwrapped, "scoring", "step") == "batch":
        raise ValueError(
            "A wrapped text environment is driven step by step: make it with scoring='step', "
            "or pass it unwrapped."
        )
    return env


def check_groups(env: VectorEnv, group_size: int) -> None:
    """Raise a ValueError if the rows are not in groups of ``group_size``."""
    of_groups = getattr(env.unwrapped, "group_size", group_size)
    if of_groups != group_size:
        raise ValueError(
            f"This agent compares groups of {group_size}, but the environment has "
            f"group_size={of_groups}: give both the same."
        )
    if env.num_envs % group_size:
        raise ValueError(
            f"The environment's {env.num_envs} rows are no multiple of group_size={group_size}."
        )


def imported(env_id: str) -> str:
    """``"package:Id-v0"`` as ``"Id-v0"``; imports the package, which the caller names."""
    module, _, env_id = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return env_id


def native_text_class(env_id: str) -> type[TextGenVectorEnv] | None:
    """The class of an id, also one that a user registered, that makes a `TextGenVectorEnv`."""
    entry_point: Any = gym.spec(env_id).vector_entry_point
    if isinstance(entry_point, str):
        entry_point = gym.envs.registration.load_env_creator(entry_point)
    if isinstance(entry_point, type) and issubclass(entry_point, TextGenVectorEnv):
        return entry_point
    return None


# --- binding and schedules ----------------------------------------------------------------------


def text_environments(env: Any) -> list[TextGenEnv | TextGenVectorEnv]:
    """The text environments inside an environment: itself, or those of one row in a vector.

    Wrappers are skipped, including those of stable-baselines3's vector environments.
    """
    env = getattr(env, "unwrapped", env)
    if isinstance(env, TextGenEnv | TextGenVectorEnv):
        return [env]
    singles = [getattr(single, "unwrapped", single) for single in getattr(env, "envs", ())]
    return [single for single in singles if isinstance(single, TextGenEnv)]


def reference(env: Any) -> Any:
    """The reference model of the text environments inside ``env``; None without one."""
    shaped = [text.shaping for text in text_environments(env) if text.shaping is not None]
    return shaped[0].reference if shaped else None


def bind(env: Any, policy: Any) -> None:
    """Let the text environments inside ``env`` read the policy's records, for KL shaping.

    In a vector of single environments each gets its own entry of the records. Environments in
    other processes, where a policy would be a copy, or of another tokenizer than that of the
    policy's model are a ValueError.
    """
    inner = getattr(env, "unwrapped", env)
    if type(inner).__name__ in IN_OTHER_PROCESSES:
        # The vectors of stable-baselines3 call the space of one row observation_space.
        space = getattr(inner, "single_observation_space", inner.observation_space)
        if "input_ids" in getattr(space, "spaces", {}):
            raise ValueError(
                f"{type(inner).__name__} runs its text environments in other processes, where the "
                "policy would be a copy whose log-probabilities never change: use "
                "gym.make_vec('TextGen-v0', ...), SyncVectorEnv or DummyVecEnv."
            )
        return
    for row, text_env in enumerate(text_environments(env)):
        ends = ends_of_model(getattr(policy, "model", None))
        others = [token for token in ends if token not in text_env.task.stop_rule.tokens]
        if others and row == 0:
            log.warning(
                "The policy's model also ends its text with the tokens %s, on which the "
                "environment does not stop: give it stop=%s.", others, others,
            )  # fmt: skip
        text_env.bind(policy, None if isinstance(text_env, TextGenVectorEnv) else row)


def forget_caches(env: Any) -> None:
    """Drop the caches of the references of the text environments inside ``env``."""
    for text_env in text_environments(env):
        if text_env.shaping is not None:
            text_env.shaping.forget()


def schedules(env: Any) -> list[KLSchedule]:
    """The schedules of β of the text environments inside ``env``, each once."""
    every = [text.shaping.schedule for text in text_environments(env) if text.shaping is not None]
    return list({id(schedule): schedule for schedule in every}.values())


def kl_coef(env: Any) -> float:
    """The current β of the rewards of the text environments inside ``env``; 0 without KL."""
    return max((schedule.value for schedule in schedules(env)), default=0.0)


def move_schedules(env: Any, kls: list[float]) -> None:
    """Update the schedules of β with the KL, in nats, of each episode that ended in a rollout."""
    if kls:
        for schedule in schedules(env):
            schedule.update(sum(kls) / len(kls), len(kls))


def set_schedules(env: Any, value: float | None) -> None:
    """Set a saved β in the schedules that adapt it."""
    for schedule in schedules(env):
        if value is not None and not isinstance(schedule, FixedKL):
            schedule.value = value


# --- describing ---------------------------------------------------------------------------------


def describe(env: VectorEnv) -> dict[str, Any] | None:
    """What is needed to make an environment like this one again, as data for JSON: ``id``,
    ``kwargs``, and ``live``, the names of arguments that are live objects. None if it cannot be
    made again from an id: it is wrapped, or was never registered."""
    found = text_environments(env)
    spec = getattr(found[0] if found else env, "spec", None)
    singles = getattr(env.unwrapped, "envs", ())
    wrapped = env is not env.unwrapped or any(
        getattr(single.spec, "additional_wrappers", ()) for single in singles
    )
    if wrapped:
        return None
    if found:
        data, live = found[0].task.as_data()
        return {"id": "TextGen-v0" if spec is None else spec.id, "kwargs": data, "live": live}
    if spec is None:
        return None
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in OF_MAKE_VEC}
    if "vectorization_mode" in kwargs:
        kwargs["vectorization_mode"] = VectorizeMode(kwargs["vectorization_mode"]).value
    registered = gym.registry.get(spec.id)
    if registered is None or spec.max_episode_steps != registered.max_episode_steps:
        kwargs["max_episode_steps"] = spec.max_episode_steps
    data = {name: plain(value) for name, value in kwargs.items() if is_data(plain(value))}
    return {"id": spec.id, "kwargs": data, "live": sorted(set(kwargs) - set(data))}


def saved_arguments(task: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that make the environment of a task that `describe` wrote again; those that
    are ``given`` by the caller take precedence."""
    known = gym.registry.get(task["id"])
    if known is None:
        raise ValueError(
            f"The agent was trained in {task['id']!r}, which is not registered here: import the "
            "module that registers it, or pass env=."
        )
    missing = [name for name in task["live"] if name not in {**known.kwargs, **given}]
    if missing:
        raise ValueError(
            f"The agent was trained with a live object as {', '.join(missing)}, which is not "
            f"saved: give it again, as --{missing[0].replace('_', '-')} on the command line, or in "
            f"Python as env_kwargs={{{missing[0]!r}: ...}}."
        )
    arguments = {**task["kwargs"], **given}
    for name in ("reward", "respond"):
        value = arguments.get(name)
        if name not in given and value != known.kwargs.get(name) and names_code(value):
            raise ValueError(
                f"The agent was trained with {name}={value!r}, which names code. Code that a file "
                f"names is not imported: name it yourself, as --{name} module:function on the "
                f"command line, or in Python as env_kwargs={{{name!r}: 'module:function'}}."
            )
    return arguments
