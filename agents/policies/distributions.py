"""What a policy says about its actions: distributions over the steps of a batch.

Each answers with ``[B, T]`` tensors, in which only counted steps mean anything. ``kl`` is analytic,
worked out over all actions and not from samples.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from textenv.kl import exact
from textenv.lm.parts import Head
from textenv.lm.scoring import Sampling, in_chunks, token_log_probs


def to_rows(values: Tensor, mask: Tensor) -> Tensor:
    """``[N]`` values of the counted steps at their places in ``[B, T]``, 0 elsewhere."""
    rows = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return rows.masked_scatter(mask, values)


BLOCK = 256  # actions whose probabilities are summed before any is looked at alone


def draw(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """A draw from each row of normalised ``log_probs`` ``[B, A]``: actions ``[B]``.

    By the inverse of the cumulative distribution, with one random number a row. The usual ways
    (`multinomial`, Gumbel noise) need one for every action, which for a vocabulary of 50,000 takes
    a third of the time of a rollout on a CPU. Sums are taken in float64: in float32 the sum stands
    still at 1 while thousands of rare tokens are yet to come, and none of them is ever drawn.

    The block that the random number falls into is found first, and then the action in the block.
    """
    rows, actions = log_probs.shape
    probabilities = log_probs.exp()
    if actions % BLOCK:
        probabilities = torch.nn.functional.pad(probabilities, (0, -actions % BLOCK))
    blocks = probabilities.unflatten(1, (-1, BLOCK))
    uniform = torch.rand(
        (rows, 1), generator=generator, device=log_probs.device, dtype=torch.float64
    )
    # 1 − u lies in (0, 1], so that an action of probability 0 is never met.
    cumulative = blocks.sum(dim=2, dtype=torch.float64).cumsum(dim=1)
    target = (1 - uniform) * cumulative[:, -1:]
    block = torch.searchsorted(cumulative, target).clamp(max=cumulative.shape[1] - 1)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, block)
    every = torch.arange(rows, device=log_probs.device)
    within = blocks[every, block[:, 0]].to(torch.float64).cumsum(dim=1)
    # The two ways to sum a block may differ by rounding.
    place = torch.searchsorted(within, torch.minimum(target - before, within[:, -1:]))
    # Beyond the last action only where probabilities are nan.
    return (block * BLOCK + place)[:, 0].clamp(max=actions - 1)


class TokenDistribution:
    """Next-token distributions, kept as hidden states: logits exist only while they are used.

    Args:
        head: hidden states to logits.
        hidden: ``[N, H]``.
        mask: ``[B, T]`` bool with N True entries.
        sampling: the rule from logits to probabilities.
        autocast: makes the context in which the head runs.
    """

    def __init__(
        self,
        head: Head,
        hidden: Tensor,
        mask: Tensor,
        sampling: Sampling,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.head, self.hidden, self.mask = head, hidden, mask
        self.sampling, self.autocast = sampling, autocast

    def log_probs(self, actions: Tensor, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """log π of ``actions`` ``[B, T]`` and, if asked for, the entropy of π, both ``[B, T]``."""
        with self.autocast():
            log_probs, entropies = token_log_probs(
                self.head, self.hidden, actions[self.mask], self.sampling, entropy
            )
        return to_rows(log_probs, self.mask), (
            to_rows(entropies, self.mask) if entropies is not None else None
        )

    def kl(self, other: TokenDistribution) -> Tensor:
        """KL(self‖other) over the whole vocabulary, ``[B, T]`` in nats; gradients flow to both."""

        def of_chunk(hidden: Tensor, other_hidden: Tensor) -> tuple[Tensor]:
            logits = self.sampling.apply(self.head(hidden))
            return (exact(logits, other.sampling.apply(other.head(other_hidden))),)

        with self.autocast():
            (kl,) = in_chunks(of_chunk, self.head, self.hidden, other.hidden)
        return to_rows(kl, self.mask)

    def detach(self) -> TokenDistribution:
        """This distribution as it is now, whatever becomes of the model: the head is copied."""
        return TokenDistribution(
            self.head.frozen(), self.hidden.detach(), self.mask, self.sampling, self.autocast
        )


class TorchDistribution:
    """A `torch.distributions` distribution over all steps of a batch, counted or not.

    Args:
        distribution: with the batch shape ``[B, T]``.
    """

    def __init__(self, distribution: Distribution):
        self.distribution = distribution

    def log_probs(self, actions: Tensor, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """log π of ``actions`` ``[B, T, ...]`` and, if asked for, the entropy of π, ``[B, T]``."""
        return self.distribution.log_prob(actions), (
            self.distribution.entropy() if entropy else None
        )

    def kl(self, other: TorchDistribution) -> Tensor:
        """KL(self‖other), ``[B, T]`` in nats; gradients flow to both."""
        return kl_divergence(self.distribution, other.distribution)

    def detach(self) -> TorchDistribution:
        """This distribution as it is now, without gradient."""
        base: Any = self.distribution
        inner = base.base_dist if hasattr(base, "base_dist") else base
        names = ["logits"] if hasattr(inner, "logits") else ["loc", "scale"]
        fixed = type(inner)(**{name: getattr(inner, name).detach() for name in names})
        if inner is not base:
            fixed = torch.distributions.Independent(fixed, base.reinterpreted_batch_ndims)
        return TorchDistribution(fixed)
