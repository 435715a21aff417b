"""Arguments in an environment's spec: as data where possible, else live objects that are shared.

Functions that can be imported are in the spec as ``"module:function"``, and members of enumerations
as their values, so that ``spec.to_json()`` can write them.

Gymnasium keeps the arguments of an environment in its spec and deep-copies them, once for each
wrapper. For a model of 200 MB that would waste memory, so the model is put into a `Shared` holder:
a copy of the holder refers to the same object.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Collection, Mapping
from enum import Enum
from types import FunctionType
from typing import Any

import numpy as np
import torch


class Shared:
    """A holder whose copies all contain the same object.

    Environments put live arguments into it automatically. Use it yourself to register an id with a
    live object: ``gym.register(..., kwargs={"reference": textenv.Shared(model)})``.
    """

    def __init__(self, value: Any):
        self.value = value

    def __copy__(self) -> Shared:
        return self

    def __deepcopy__(self, memo: dict) -> Shared:
        return self

    def __repr__(self) -> str:
        return f"Shared({type(self.value).__name__})"


def unwrap_shared(argument: Any) -> Any:
    """The object inside a `Shared` holder; any other argument as it is."""
    return argument.value if isinstance(argument, Shared) else argument


def is_data(value: Any) -> bool:
    """Whether a value is plain data, which can be copied and written as JSON."""
    if isinstance(value, list | tuple):
        return all(map(is_data, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_data, value.values()))
    return value is None or isinstance(value, str | int | float | bool)


def columns_of(table: Any) -> list[Any] | None:
    """The names of the columns of a table of pandas, polars or pyarrow; None for anything else."""
    kind = type(table)  # an object may pretend to have any attribute
    if hasattr(kind, "to_pylist") and hasattr(kind, "column_names"):  # pyarrow
        return list(table.column_names)
    if hasattr(kind, "iterrows") or hasattr(kind, "to_dicts"):  # pandas, polars
        return list(table.columns)
    return None


def _rows_of(table: Any) -> list[Any]:
    for as_rows in ("to_pylist", "to_dicts"):
        if hasattr(table, as_rows):
            return getattr(table, as_rows)()
    cells = table.astype(object)
    # A cell without a value is NaN or NaT in pandas, which would look like a number.
    return cells.where(cells.notna(), None).to_dict("records")


def plain(value: Any) -> Any:
    """Data in another form, such as an array, a table, a set or a path, as plain data; else as it
    is. A table is a list of its rows; one with two columns of one name stays as it is."""
    if type(value) in (str, int, float, bool):  # most values, of long tables
        return value
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return path if os.path.dirname(path) else os.path.join(os.curdir, path)  # it is no name
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor):
        return plain(value.tolist()) if value.dtype == object else value.tolist()
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=repr)
    if isinstance(value, list | tuple | range):
        return [plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    columns = columns_of(value)
    if columns is not None and len({*columns}) == len(columns):
        return [plain(row) for row in _rows_of(value)]
    return value


# The arguments that may be live objects; the environments take them out of their holders.
SHARED_ARGUMENTS = {"tokenizer", "prompts", "reward", "stop", "reference", "kl_coef"}


def with_names(reward: Any) -> Any:
    """A reward in which each function that can be imported is ``"module:function"``.

    A function of the script that runs, ``__main__``, stays as it is: another script that reads the
    name would look for it in itself.
    """
    if isinstance(reward, Mapping):
        return {with_names(part): weight for part, weight in reward.items()}
    if isinstance(reward, list | tuple):
        return [
            [with_names(part[0]), *part[1:]] if isinstance(part, list | tuple) and part else part
            for part in reward
        ]
    if not isinstance(reward, FunctionType) or reward.__module__ in ("__main__", "__mp_main__"):
        return reward
    module, name = sys.modules.get(reward.__module__), reward.__qualname__
    found = getattr(module, "__spec__", None) is not None and getattr(module, name, None) is reward
    return f"{reward.__module__}:{name}" if found else reward


def in_spec(name: str, value: Any) -> Any:
    """The value of an argument as it is in a spec: as data, or else a live object in a holder."""
    value = unwrap_shared(value)
    if isinstance(value, Enum):
        return value.value
    data = plain(with_names(value) if name == "reward" else value)
    if is_data(data):
        return data
    return Shared(value) if name in SHARED_ARGUMENTS else value


class SpecOfLiveObjects:
    """Mixin for environments: an assigned ``spec`` has its arguments as `in_spec` gives them, and
    the arguments of the task do not change once the environment is made."""

    _spec = None
    _fixed: Collection[str] = ()  # names of arguments, which would be ignored if they were set

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed:
            raise AttributeError(
                f"{name} cannot be changed once an environment is made: make another one, "
                f"env.unwrapped.sibling(num_envs, {name}=...), or gymnasium.make with it."
            )
        super().__setattr__(name, value)

    @property
    def spec(self):
        return self._spec

    @spec.setter
    def spec(self, spec) -> None:
        if spec is not None:
            spec = copy.copy(spec)
            spec.kwargs = {name: in_spec(name, value) for name, value in spec.kwargs.items()}
        self._spec = spec
