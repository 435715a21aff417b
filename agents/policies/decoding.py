"""One step of generation: from observations to logits, and to tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.policies.distributions import draw
from textenv.lm.decoder import Decoder
from textenv.lm.scoring import Sampling


def next_tokens(
    decoder: Decoder,
    observation: dict[str, Any],
    sampling: Sampling,
    generator: torch.Generator,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token for each row of an observation, from a cache of what came before.

    Returns:
        actions ``[B]``, their log-probabilities ``[B]`` (nats), and the body's last hidden states
        ``[B, H]`` from which they were drawn.
    """
    logits, hidden = next_logits(decoder, observation)
    every = sampling.apply(logits).log_softmax(dim=-1)
    actions = every.argmax(dim=-1) if deterministic else draw(every, generator)
    return actions, every.gather(1, actions[:, None])[:, 0], hidden


def next_logits(decoder: Decoder, observation: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What the decoder's head gives for each row, and the hidden states ``[B, H]``."""
    input_ids = torch.as_tensor(observation["input_ids"])
    lengths = torch.as_tensor(observation["attention_mask"]).sum(dim=1, dtype=torch.int64)
    return decoder.next(input_ids, lengths, getattr(observation, "origin", None))
