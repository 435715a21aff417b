"""Stop tokens that a row must not choose yet, because its response is shorter than the minimum.

With ``min_new_tokens``, a stop token before this number of tokens does not end an episode. Where a
response begins is not visible in its tokens, so the observation then says which tokens stop
(``stop_tokens``), and the first column in which one of them does (``stop_column``).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from textenv.arrays import to_device

KEYS = ("stop_tokens", "stop_column")  # of an observation


def early_stops_at(stop_tokens: Tensor, stop_column: Tensor, column: Tensor) -> Tensor:
    """The stop tokens ``[..., K]`` that have no effect yet at the ``column`` ``[...]`` of the next
    token, because it is before ``stop_column`` ``[..., 1]``; -1 elsewhere."""
    return torch.where(column[..., None] < stop_column, stop_tokens, -1)


def next_early_stops(observation: Mapping[str, Any], lengths: Tensor) -> Tensor | None:
    """The early stops ``[B, K]`` of the tokens that follow ``lengths`` ``[B]``; None if all stop
    tokens are legal. The observation is one of numpy or of torch."""
    if "stop_column" not in observation:
        return None
    tokens, first = (torch.as_tensor(observation[key], device=lengths.device) for key in KEYS)
    return early_stops_at(tokens, first, lengths)


def all_early_stops(observations: Mapping[str, Any], num_steps: int) -> Tensor | None:
    """The early stops ``[B, T, K]`` of the T steps of whole rows, which begin at the columns
    ``prompt_lengths`` ``[B]``; None if all are legal."""
    if "stop_column" not in observations:
        return None
    begins = observations["prompt_lengths"]
    column = begins[:, None] + torch.arange(num_steps, device=begins.device)
    tokens, first = (observations[key][:, None] for key in KEYS)
    return early_stops_at(tokens, first, column)


def forbid(logits: Tensor, illegal: Tensor | None) -> Tensor:
    """A copy of logits ``[..., V]`` with −inf at the illegal tokens: ids ``[..., K]``, of which -1
    is none; or bool ``[..., V]``; or None."""
    if illegal is None:
        return logits
    illegal = to_device(illegal, logits.device)
    if illegal.dtype != torch.bool:
        vocabulary = logits.shape[-1]
        chosen = logits.new_zeros((*logits.shape[:-1], vocabulary + 1), dtype=torch.bool)
        # -1 goes into a last column, which is cut off.
        illegal = chosen.scatter_(-1, illegal % (vocabulary + 1), True)[..., :vocabulary]
    return logits.masked_fill(illegal, -torch.inf)
