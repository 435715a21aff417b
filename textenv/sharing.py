"""Live objects in an environment's spec, shared instead of copied.

Gymnasium keeps the arguments of an environment in its spec and deep-copies them, once for each
wrapper. For a model of 200 MB that would waste memory, so the model is put into a `Shared` holder:
a copy of the holder refers to the same object.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
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


def plain(value: Any) -> Any:
    """Data in another form, such as an array, a set or a path, as plain data; else as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=repr)
    if isinstance(value, list | tuple | range):
        return [plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    return value


# The arguments that may be live objects; the environments take them out of their holders.
SHARED_ARGUMENTS = {"tokenizer", "prompts", "reward", "stop", "reference", "kl_coef"}


class SpecOfLiveObjects:
    """Mixin for environments: puts the live objects of an assigned ``spec`` into holders."""

    _spec = None

    @property
    def spec(self):
        return self._spec

    @spec.setter
    def spec(self, spec) -> None:
        if spec is not None:
            spec = copy.copy(spec)
            spec.kwargs = spec.kwargs | {
                key: Shared(unwrap_shared(value))
                for key, value in spec.kwargs.items()
                if key in SHARED_ARGUMENTS and not is_data(value)
            }
        self._spec = spec
