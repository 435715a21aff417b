"""The record of a finished episode: all the information that a reward function receives."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class ReadOnlyData(dict):
    """A dictionary that does not change: many episodes begin with the same prompt's row."""

    def _refuse(self, *arguments: Any, **keywords: Any) -> Any:
        raise TypeError("episode.data is read-only: change a copy, dict(episode.data).")

    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse

    def __reduce__(self) -> tuple:
        return ReadOnlyData, (dict(self),)


# The arrays make a field-by-field `==` ambiguous, so two episodes are equal only if they are
# the same object.
@dataclass(frozen=True, eq=False)
class Episode:
    """One finished episode. Treat it as read-only, including its arrays and its mapping.

    Attributes:
        prompt: The prompt's text, rendered by the chat template where the prompt is a
            conversation.
        response: The decoded response, without special tokens and without the stop string that
            ended it.
        prompt_ids: The prompt's tokens, int64 `[P]`.
        response_ids: The response's tokens, int64 `[T]`, the stop token included.
        finish_reason: `"stop"` if a stop token or a stop string ended the response, `"length"`
            if the token budget ended it.
        data: The other columns of the prompt's row, such as an answer or a label. Read-only.
    """

    prompt: str
    response: str
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    finish_reason: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What a reward changes in it all the same ends with the episode.
        data = {name: _copied(value) for name, value in self.data.items()}
        object.__setattr__(self, "data", ReadOnlyData(data))


def _copied(value: Any) -> Any:
    """A value of plain data with lists, mappings and arrays of its own."""
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_copied(part) for part in value]
    return copy.copy(value) if isinstance(value, set | np.ndarray) else value
