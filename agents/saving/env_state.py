"""The state of an environment between two steps, as data, so that a run can go on exactly there.

Gymnasium has no interface for this. Objects that have ``state_dict`` and ``load_state_dict``, as
the text environments have, are asked. Of all others the attributes are walked: numbers, texts,
arrays, random generators, and containers and objects of these. Restoring needs an environment that
was made in the same way and has been reset: only values of attributes that it has are set, and no
object is made. What cannot be read as data (the memory of a simulator in C) is an error.
"""

from __future__ import annotations

import enum
import logging
import random
import types
from collections import deque
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

State = Any  # a tree of JSON values, arrays and tensors; every container is a dictionary

CONSTANTS: tuple[type, ...] = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type,
    types.GenericAlias, types.MappingProxyType, np.ufunc, np.dtype, torch.dtype, torch.device,
    gym.Space, EnvSpec, logging.Logger, PurePath, property,
)  # fmt: skip
OF_THE_SCREEN = ("pygame", "cv2", "matplotlib")  # modules whose objects only draw
OF_A_PATH = set("/\\:~")
# Classes derived from these have contents that their attributes do not show.
BUILT_IN = (list, tuple, deque, set, frozenset, str, bytes, int, float)
SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "deque": deque, "set": set}


class NotData(TypeError):
    """A part of an environment's state cannot be read or set as data."""


def capture(thing: Any) -> State:
    """A copy of the state of an object, an environment or a collector, as data.

    Raises:
        NotData: it has state that cannot be read.
    """
    return _Capture().of(thing, type(thing).__name__)


def restore(thing: Any, state: State) -> None:
    """Set the state that `capture` has read from an object like this one.

    Raises:
        NotData: the state does not fit the object.
    """
    _Restore().into(thing, state, type(thing).__name__)


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _is_constant(value: Any) -> bool:
    module = type(value).__module__.partition(".")[0]
    if isinstance(value, torch.nn.Module):
        return not value.training  # one that learns has a state
    return isinstance(value, CONSTANTS) or module in OF_THE_SCREEN


def _has_own_state(value: Any) -> bool:
    # Of the class: a wrapper that passes attributes on has none of its own.
    return all(hasattr(type(value), name) for name in ("state_dict", "load_state_dict"))


def _sequence_kind(value: Any) -> str | None:
    return next((name for name, cls in SEQUENCES.items() if type(value) is cls), None)


class _Capture:
    """Walks an object; shared objects are read once."""

    def __init__(self) -> None:
        self.known: dict[int, Any] = {}

    def of(self, value: Any, where: str) -> State:
        if isinstance(value, np.generic):
            return {"number": np.array(value)}
        if isinstance(value, enum.Enum):
            return {"member": value.name}
        if _is_plain(value):
            return value
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                nodes = [self.of(entry, where) for entry in value.ravel()]
                return {"objects": nodes, "shape": list(value.shape)}
            return {"array": value.copy()}
        if isinstance(value, torch.Tensor):
            return {"tensor": value.detach().clone(memory_format=torch.contiguous_format)}
        if _is_constant(value):
            return {"constant": type(value).__name__}
        if id(value) in self.known:
            return {"shared": True}
        self.known[id(value)] = value  # a reference, so that the id is not used again
        return self.of_container(value, where)

    def of_container(self, value: Any, where: str) -> State:
        if isinstance(value, np.random.Generator):
            return {"generator": self.of(value.bit_generator.state, where)}
        if isinstance(value, torch.Generator):
            return {"tensor": value.get_state()}
        if isinstance(value, random.Random):
            return {"random": self.of(value.getstate(), where)}
        if _has_own_state(value):
            return {"own": self.of(value.state_dict(), where)}
        kind = _sequence_kind(value)
        if kind is not None:
            return {kind: [self.of(part, f"{where}[{i}]") for i, part in enumerate(value)]}
        if isinstance(value, dict):
            if not all(_is_plain(key) for key in value):
                raise NotData(f"{where} is a dictionary whose keys are not plain.")
            return {"dict": [[k, self.of(v, f"{where}[{k!r}]")] for k, v in value.items()]}
        if not hasattr(value, "__dict__") or isinstance(value, BUILT_IN):
            raise NotData(f"{where} is a {type(value).__name__}, whose state cannot be read.")
        attributes = {k: self.of(v, f"{where}.{k}") for k, v in vars(value).items()}
        return {"object": attributes}


class _Restore:
    """Walks an object beside its saved state, in the same order."""

    def __init__(self) -> None:
        self.known: dict[int, Any] = {}

    def into(self, value: Any, state: State, where: str) -> Any:
        """The value to use from now on: the object itself, changed, or a new value."""
        if not isinstance(state, dict):
            if _is_data(value):
                return state
            raise NotData(f"{where} is a {type(value).__name__}; the saved one is {state!r}.")
        ((kind, content), *more) = state.items()
        if kind in ("constant", "shared"):
            return value
        if kind == "member":
            if not isinstance(value, enum.Enum) or content not in type(value).__members__:
                raise NotData(f"{where} is a {type(value).__name__}; the saved one is {content!r}.")
            return type(value)[content]
        if kind in ("array", "tensor", "number"):
            return self.numbers(value, kind, content, where)
        if kind == "objects":
            entries = value.ravel() if isinstance(value, np.ndarray) else [None] * len(content)
            new = np.empty(len(content), object)
            new[:] = [self.into(o, s, where) for o, s in zip(entries, content, strict=True)]
            return new.reshape(more[0][1])
        if value is not None and id(value) in self.known:
            return value
        self.known[id(value)] = value
        if kind in SEQUENCES:
            return self.sequence(value, kind, content, where)
        if kind == "dict":
            table = value if isinstance(value, dict) else {}
            parts = {k: self.into(table.get(k), s, f"{where}[{k!r}]") for k, s in content}
            table.clear()
            table.update(parts)
            return table
        return self.stateful(value, kind, content, where)

    def numbers(self, value: Any, kind: str, content: Any, where: str) -> Any:
        if isinstance(value, torch.Generator):
            value.set_state(content.cpu())
            return value
        if isinstance(value, np.ndarray) and kind == "array" and value.shape == content.shape:
            if value.dtype == content.dtype and value.flags.writeable:
                value[...] = content  # in place: other attributes may be views of it
                return value
        if isinstance(value, torch.Tensor) and kind == "tensor" and value.shape == content.shape:
            with torch.no_grad():
                value.copy_(content)
            return value
        if value is None or isinstance(value, np.ndarray | np.generic | torch.Tensor | float | int):
            if kind == "number":
                return content[()]
            return content.copy() if kind == "array" else content.clone()
        raise NotData(f"{where} is a {type(value).__name__}; the saved one is an {kind}.")

    def sequence(self, value: Any, kind: str, content: list, where: str) -> Any:
        cls: Any = SEQUENCES[kind]
        old: list[Any] = list(value) if type(value) is cls and kind != "set" else []
        old += [None] * (len(content) - len(old))
        parts = [
            self.into(part, state, f"{where}[{i}]")
            for i, (part, state) in enumerate(zip(old, content, strict=False))
        ]
        if kind == "tuple" or type(value) is not cls:
            return cls(parts)
        value.clear()  # in place: others may refer to it
        value.update(parts) if kind == "set" else value.extend(parts)
        return value

    def stateful(self, value: Any, kind: str, content: Any, where: str) -> Any:
        fits = {
            "generator": isinstance(value, np.random.Generator),
            "random": isinstance(value, random.Random),
            "own": _has_own_state(value),
            "object": hasattr(value, "__dict__"),
        }
        if not fits.get(kind, False):
            raise NotData(f"{where} is a {type(value).__name__}; the saved one is an {kind}.")
        if kind == "generator":
            value.bit_generator.state = self.into({}, content, where)
        elif kind == "random":
            value.setstate(self.into(None, content, where))
        elif kind == "own":
            value.load_state_dict(self.into({}, content, where))
        else:
            attributes = vars(value)
            for name, state in content.items():
                if name not in attributes:
                    raise NotData(f"{where} has no attribute {name!r} of its own.")
                before = attributes[name]
                after = self.into(before, state, f"{where}.{name}")
                if type(after) is str and after != before and not OF_A_PATH.isdisjoint(after):
                    # A path or a name of code is a setting, and not a state.
                    raise NotData(f"{where}.{name} is {before!r}; the saved one is {after!r}.")
                attributes[name] = after
        return value


def _is_data(value: Any) -> bool:
    data = np.ndarray | np.generic | dict | list | tuple | deque | set
    return _is_plain(value) or isinstance(value, data)


def settings(thing: Any, state: State, at_start: State) -> dict[str, Any]:
    """The plain attributes that have not changed since the start, by their paths.

    They are settings of an environment, and not its state: `check_settings` compares them, so that
    the state of one environment is not restored into another one.

    Args:
        thing: the object, for its name.
        state, at_start: what `capture` has read now, and at the start.
    """
    found: dict[str, Any] = {}

    def walk(now: State, then: State, where: str) -> None:
        if _is_plain(now) and type(now) is type(then) and now == then:
            found[where] = now
        elif isinstance(now, dict) and isinstance(then, dict) and "object" in now.keys() & then:
            for name in now["object"].keys() & then["object"]:
                if name.startswith("_") or "seed" in name:
                    continue  # settings are public; a seed is none
                walk(now["object"][name], then["object"][name], f"{where}.{name}")
        elif isinstance(now, dict) and isinstance(then, dict) and "list" in now.keys() & then:
            for i, pair in enumerate(zip(now["list"], then["list"], strict=False)):
                walk(*pair, f"{where}[{i}]")

    walk(state, at_start, type(thing).__name__)
    return found


def check_settings(thing: Any, state: State, saved: Mapping[str, Any]) -> None:
    """Raise an error if an object's settings are not the saved ones.

    Raises:
        NotData: the message names the first that differs.
    """
    here = settings(thing, state, state)
    for where, value in saved.items():
        if where not in here or here[where] != value:
            raise NotData(f"{where} is {here.get(where)!r}; the saved one is {value!r}.")
