"""The record of a finished episode: all that a reward function gets to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


# The arrays make a field-by-field `==` ambiguous, so two episodes are equal only if they are
# the same object.
@dataclass(frozen=True, eq=False)
class Episode:
    """One finished episode. Read it; never write to it, its arrays and its mapping included.

    Attributes:
        prompt: The prompt's text, rendered by the chat template where the prompt is a
            conversation.
        response: The decoded response, without special tokens and without the stop string that
            ended it.
        prompt_ids: The prompt's tokens, int64 `[P]`.
        response_ids: The response's tokens, int64 `[T]`, the stop token included.
        finish_reason: `"stop"` if a stop token or a stop string ended the response, `"length"`
            if the token budget did.
        data: The other columns of the prompt's row, such as an answer or a label.
    """

    prompt: str
    response: str
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    finish_reason: str
    data: Mapping[str, Any] = field(default_factory=dict)
