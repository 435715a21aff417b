"""Where an environment is between two steps, as its class says it.

Gymnasium has no interface for this. Classes that have ``state_dict`` and ``load_state_dict``, as
those of text have, are asked. Of Gymnasium's own classes around an environment the few attributes
are known that a later step depends on. Any other class may hold anything: its state is unknown.
"""

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from gymnasium import wrappers
from gymnasium.vector import SyncVectorEnv, VectorWrapper

State = list[list]  # [name of the class, its state] of each layer, from the outside to the inside

ATTRIBUTES: dict[type, tuple[str, ...]] = {
    SyncVectorEnv: ("_autoreset_envs",),
    wrappers.OrderEnforcing: (),
    wrappers.PassiveEnvChecker: (),
    wrappers.RecordEpisodeStatistics: ("episode_returns", "episode_lengths"),
    wrappers.TimeLimit: ("_elapsed_steps",),
    wrappers.vector.RecordEpisodeStatistics: ("episode_returns", "episode_lengths", "prev_dones"),
}


class UnknownState(TypeError):
    """A class cannot say what state it is in."""


def capture(env: Any) -> State:
    """A copy of the state of an environment, of its wrappers and of its rows."""
    states: State = []
    for layer in _layers(env):
        cls = type(layer)
        if _has_own_state(cls):
            try:
                state = layer.state_dict()
            except TypeError as error:  # something in it has none
                raise UnknownState(str(error)) from error
        elif cls in ATTRIBUTES:
            state = {name: getattr(layer, name) for name in ATTRIBUTES[cls]}
        else:
            raise UnknownState(f"{cls.__name__} has no state_dict and load_state_dict.")
        states.append([cls.__name__, copy.deepcopy(state)])
    return states


def restore(env: Any, states: State) -> None:
    """Set what `capture` has read from an environment like this one, which has been reset."""
    layers = list(_layers(env))
    here, there = [type(layer).__name__ for layer in layers], [name for name, _ in states]
    if here != there:
        raise ValueError(f"This one is made of {here}; the state is of {there}.")
    for layer, (_, state) in zip(layers, states, strict=True):
        if _has_own_state(type(layer)):
            layer.load_state_dict(state)
        else:
            vars(layer).update(state)


def _layers(env: Any) -> Iterator[Any]:
    yield env
    if isinstance(env, gym.Wrapper | VectorWrapper):
        yield from _layers(env.env)
    elif type(env) is SyncVectorEnv:
        for single in env.envs:
            yield from _layers(single)


def _has_own_state(cls: type) -> bool:
    # Asked of the class, since a wrapper passes on the attributes of what it wraps.
    return hasattr(cls, "state_dict") and hasattr(cls, "load_state_dict")
