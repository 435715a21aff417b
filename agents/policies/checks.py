"""What the policy of a language model checks before it is made."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import nn

from textenv.arguments import Range
from textenv.lm.parts import unwrapped
from textenv.sharing import plain


def check_space(observation_space: Any) -> None:
    """Raise an error for observations that are not those of a text environment."""
    if not (
        isinstance(observation_space, gym.spaces.Dict)
        and {"input_ids", "attention_mask"} <= observation_space.spaces.keys()
    ):
        raise ValueError(
            "CausalLMPolicy reads the observations of TextGen-v0 (a Dict with input_ids and "
            f"attention_mask), not {observation_space}: use 'MlpPolicy' here."
        )


def check_live(model: nn.Module, attn_implementation: str | None) -> None:
    """Raise an error for a live model that cannot learn, or does not fit the arguments."""
    learning = {p.dtype for p in model.parameters() if p.requires_grad}
    if learning - {torch.float32}:
        raise ValueError(
            f"The weights that learn are {', '.join(map(str, learning))}; small steps would vanish "
            "in their rounding: load the model with dtype=torch.float32 (the policy's "
            "dtype='bfloat16' then lets it act in bfloat16)."
        )
    loaded = unwrapped(model).config._attn_implementation
    if attn_implementation not in (None, loaded):
        raise ValueError(
            f"The live model was loaded with attn_implementation={loaded!r}, not "
            f"{attn_implementation!r}: load it with the one you want."
        )


def checked_tokens(banned_tokens: Any, vocabulary: int) -> tuple[int, ...]:
    """The ids of a collection of tokens.

    Raises:
        ValueError: one of them is no id of the vocabulary.
    """
    tokens = plain(banned_tokens)
    known = Range(0, vocabulary - 1, whole=True)
    if not isinstance(tokens, list) or any(token not in known for token in tokens):
        raise ValueError(f"banned_tokens={tokens!r} must be ids of the vocabulary, each {known}.")
    return tuple(tokens)
