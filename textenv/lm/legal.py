"""Which tokens a task allows, and the action space that says so."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from textenv.lm.vocabulary import vocabulary_size


class TokenSpace(gym.spaces.Discrete):
    """The ids of a vocabulary, some of which are ``illegal``: policies of this project never choose
    them, and `sample` does not. The environment accepts them all the same."""

    def __init__(self, n: int, illegal: Sequence[int]):
        super().__init__(n)
        self.illegal = tuple(illegal)

    @property
    def legal(self) -> np.ndarray:
        """Bool ``[n]``."""
        legal = np.ones(int(self.n), np.bool_)
        legal[list(self.illegal)] = False
        return legal

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        if mask is None and probability is None:
            mask = self.legal.astype(np.int8)
        return super().sample(mask, probability)

    def __eq__(self, other: Any) -> bool:
        return super().__eq__(other) and getattr(other, "illegal", ()) == self.illegal

    def __repr__(self) -> str:
        return f"TokenSpace({self.n}, {int(self.n) - len(self.illegal)} of them legal)"


def token_space(tokenizer: Any, legal: Sequence[str | int] | None) -> gym.spaces.Discrete:
    """The action space of a task with these legal tokens, ids or texts; None: all."""
    vocabulary = vocabulary_size(tokenizer)
    if legal is None:
        return gym.spaces.Discrete(vocabulary)
    several = [legal] if isinstance(legal, str | int) else list(legal)
    ids = {_id_of(entry, tokenizer, vocabulary) for entry in several}
    if not ids:
        raise ValueError("legal_tokens is empty: name at least one token, or None for all.")
    return TokenSpace(vocabulary, [token for token in range(vocabulary) if token not in ids])


def _id_of(entry: Any, tokenizer: Any, vocabulary: int) -> int:
    if isinstance(entry, int | np.integer) and not isinstance(entry, bool):
        if 0 <= entry < vocabulary:
            return int(entry)
    elif isinstance(entry, str):
        if entry in tokenizer.get_vocab():
            return tokenizer.get_vocab()[entry]
        ids = tokenizer(entry, add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            return int(ids[0])
        raise ValueError(
            f"legal_tokens contains {entry!r}, which is {len(ids)} tokens of this tokenizer: give "
            "texts that are one token, or ids."
        )
    raise ValueError(
        f"legal_tokens contains {entry!r}: give ids from 0 to {vocabulary - 1}, or texts that are "
        "one token."
    )
