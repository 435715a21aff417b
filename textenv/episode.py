"""The record of a finished episode: all the information that a reward function receives."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FIXED = str, int, float, bool, type(None)


class ReadOnlyData(dict):
    """A dictionary that does not change: many episodes begin with the same prompt's row."""

    def _refuse(self, *arguments: Any, **keywords: Any) -> Any:
        raise TypeError("episode.data is read-only: change a copy, dict(episode.data).")

    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse

    def __reduce__(self) -> tuple:
        return ReadOnlyData, (dict(self),)


@dataclass(frozen=True, eq=False)
class Turn:
    """What the policy wrote in one go, and what the environment replied.

    Attributes:
        text: The decoded text, without special tokens and without the stop string that ended it.
        ids: Its tokens, int64 `[N]`, the stop token included.
        finish_reason: `"stop"` if a stop token or a stop string ended it, `"length"` if a token
            budget did.
        reply: The text of the reply, as the policy reads it; after the last turn, as it was given.
        reply_ids: All tokens that the environment has appended after the turn, int64 `[M]`, with
            those of a chat template. None where the episode has ended.
        reward: Of the turn, as the reply gave it.
    """

    text: str
    ids: np.ndarray
    finish_reason: str
    reply: str = ""
    reply_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    reward: float = 0.0


# The arrays make a field-by-field `==` ambiguous, so two episodes are equal only if they are
# the same object.
@dataclass(frozen=True, eq=False)
class Episode:
    """One finished episode. Treat it as read-only, including its arrays and its mapping.

    Attributes:
        prompt: The prompt's text, rendered by the chat template where the prompt is a
            conversation.
        response: The decoded response, without special tokens and without the stop string that
            ended it. Of a dialogue, what the policy wrote, a line for each turn.
        prompt_ids: The prompt's tokens, int64 `[P]`.
        response_ids: The response's tokens, int64 `[T]`, the stop token included: the tokens that
            the policy chose, without those of replies.
        finish_reason: `"stop"` if a stop token or a stop string ended the response, `"length"`
            if the token budget ended it. A dialogue ends by `"end"` if the environment ended it,
            by `"turns"` after the last turn allowed, else by `"length"`; `""` while it goes on.
        data: The other columns of the prompt's row, such as an answer or a label. Read-only.
        turns: A `Turn` for each; without a dialogue there is one.
    """

    prompt: str
    response: str
    prompt_ids: np.ndarray
    response_ids: np.ndarray
    finish_reason: str
    data: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()

    @property
    def transcript(self) -> str:
        """What was read after the prompt, as people see who has said what: replies are in ‹ ›."""
        said = [
            text
            for turn in self.turns
            for text in (turn.text, f"‹{turn.reply.strip()}›" if len(turn.reply_ids) else "")
            if text.strip()
        ]
        first, *others = said or [""]
        return " ".join([first.rstrip(), *(text.strip() for text in others)])

    def __post_init__(self) -> None:
        if not self.turns and self.finish_reason:
            turn = Turn(self.response, self.response_ids, self.finish_reason)
            object.__setattr__(self, "turns", (turn,))
        object.__setattr__(self, "data", _own(self.data))


def _own(data: Mapping[str, Any]) -> ReadOnlyData:
    """The data of one episode: what a reward changes in it all the same ends with the episode."""
    if type(data) is ReadOnlyData and all(type(value) in FIXED for value in data.values()):
        return data  # nothing in it can change
    return ReadOnlyData({name: _copied(value) for name, value in data.items()})


def _copied(value: Any) -> Any:
    """A value of plain data with lists, mappings and arrays of its own."""
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_copied(part) for part in value]
    return copy.copy(value) if isinstance(value, set | np.ndarray) else value
