"""What an agent can learn in: each other object that is handed to it gets one sentence."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from textenv.arguments import check_limit, unknown_argument
from textenv.task import TextTask

log = logging.getLogger(__name__)

# Wrappers of Gymnasium whose environments speak in the arrays of another library.
OTHER_ARRAYS = ("ArrayConversion", "NumpyToTorch", "JaxToNumpy", "JaxToTorch")


def check_environment(env: Any) -> None:
    """Raise a TypeError, which says what to pass instead, for what is no environment of Gymnasium,
    and a ValueError for one that is wrapped so that it returns other arrays than NumPy's."""
    fix = "pass the id of an environment, a gymnasium.Env, or a gymnasium.vector.VectorEnv"
    if isinstance(env, EnvSpec):
        raise TypeError(f"env is a specification: pass its id, {env.id!r}, or gym.make(spec).")
    if inspect.isclass(env):
        raise TypeError(f"env is the class {env.__name__}: pass an object of it, or its id.")
    if not isinstance(env, str | gym.Env | VectorEnv):
        kind = type(env).__name__
        if hasattr(env, "step_async"):  # a vector environment of stable-baselines3
            fix = (
                "pass its environments as gymnasium.vector.SyncVectorEnv([make_env, ...]), or the "
                "id of the environment and n_envs"
            )
            kind += " of stable-baselines3"
        raise TypeError(f"env is a {kind}, which is no environment of Gymnasium: {fix}.")
    layer: Any = env  # with its wrappers, from the outside to the inside
    while isinstance(layer, gym.Env | VectorEnv):
        if any(cls.__name__ in OTHER_ARRAYS for cls in type(layer).__mro__):
            raise ValueError(
                f"env is wrapped in {type(layer).__name__}, so that it returns the arrays of "
                "another library: pass it without this wrapper; agents convert NumPy's themselves."
            )
        limit = vars(layer).get("_max_episode_steps")  # of a TimeLimit
        budget = getattr(layer.unwrapped, "task", None)
        if limit is not None and isinstance(budget, TextTask):
            try:
                check_limit(limit, budget.max_new_tokens)
            except ValueError as error:  # a critic can bootstrap from where they are cut off
                log.warning("%s", error)
        layer = vars(layer).get("env")


def check_arguments(cls: type, env_kwargs: Mapping[str, Any]) -> None:
    """Raise a TypeError for an argument that neither the class of a text environment nor
    `gymnasium.make_vec` takes."""
    if "max_episode_steps" in env_kwargs:
        raise TypeError(
            f"max_episode_steps={env_kwargs['max_episode_steps']!r}: the length of an episode of "
            "text is limited by max_new_tokens."
        )
    known = inspect.signature(cls).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in known.values())
    for name in env_kwargs:
        if not takes_all and name not in {*known, *inspect.signature(gym.make_vec).parameters}:
            raise TypeError(unknown_argument(cls.__name__, name, list(known)))
