"""The action distributions of a policy over the steps of a batch.

Their methods return ``[B, T]`` tensors, in which only counted steps are valid. ``kl`` is analytic:
it is computed over all actions and not from samples.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from textenv.kl.estimators import exact
from textenv.lm.log_probs import Sampling, in_chunks, token_log_probs
from textenv.lm.parts import Head
from textenv.lm.responses import Responses

BLOCK = 256  # number of actions in a block; the sums of blocks are compared before single actions


def draw(
    log_probs: Tensor, generator: torch.Generator, rows: Tensor | None = None, of: int = 0
) -> Tensor:
    """A draw from each row of normalised ``log_probs`` ``[B, A]``: actions ``[B]``.

    By the inverse of the cumulative distribution, with one random number per row. The usual ways
    (`multinomial`, Gumbel noise) need one for every action, which for a vocabulary of 50,000 takes
    a third of the time of a rollout on a CPU. Cumulative sums are in float64: in float32 the sum is
    already 1 before thousands of rare tokens are added, and none of these is ever drawn.

    With many actions, the block of the random number is found first, and then the action in the
    block. ``rows``: indices ``[B]``, if these are only some ``of`` all rows. Each then gets the
    random number that it would get among all of them.
    """
    count, actions = log_probs.shape
    # 1 − u lies in (0, 1], so that an action of probability 0 is never drawn.
    target = 1 - torch.rand(
        (count if rows is None else of, 1), generator=generator, device=log_probs.device,
        dtype=torch.float64,
    )  # fmt: skip
    target = target if rows is None else target[rows]
    within, first = log_probs.exp(), torch.zeros_like(target, dtype=torch.int64)
    if actions > BLOCK:
        blocks = nn.functional.pad(within, (0, -actions % BLOCK)).unflatten(1, (-1, BLOCK))
        masses = blocks.sum(dim=2).double()
        cumulative = masses.cumsum(dim=1)
        target = target * cumulative[:, -1:]
        block = torch.searchsorted(cumulative, target).clamp(max=masses.shape[1] - 1)
        # The position of the random number in its block, from 0 to 1.
        target = (target - cumulative.gather(1, block)) / masses.gather(1, block) + 1
        within, first = blocks[torch.arange(count, device=block.device), block[:, 0]], block * BLOCK
    cumulative = within.double().cumsum(dim=1)
    # Rounding may move the target out of its block, to a place without any probability.
    place = torch.searchsorted(cumulative, target.clamp(1e-16, 1) * cumulative[:, -1:])
    # The index is beyond the last action only if probabilities are nan.
    return (first + place)[:, 0].clamp(max=actions - 1)


class TokenDistribution:
    """Next-token distributions, kept as hidden states ``[N, H]``: logits exist only while they are
    used, in the context that ``autocast`` makes.

    The responses say where the N tokens are in ``[B, T]``; ``early`` ``[N, K]`` are the stop tokens
    that come too early (`textenv.lm.early_stops`), or None.
    """

    def __init__(
        self,
        head: Head,
        hidden: Tensor,
        responses: Responses,
        sampling: Sampling,
        autocast: Callable[[], AbstractContextManager],
        early: Tensor | None,
    ):
        self.head, self.hidden, self.responses = head, hidden, responses
        self.sampling, self.autocast, self.early = sampling, autocast, early

    def log_probs(self, actions: Tensor, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """log π of ``actions``, ``[B, T]``, or ``[B, T, K]`` for several at each state, and, if
        requested, the entropy of π ``[B, T]``."""
        tokens, in_rows = self.responses.counted(actions), self.responses.in_rows
        with self.autocast():
            log_probs, entropies = token_log_probs(
                self.head, self.hidden, tokens, self.sampling, entropy, self.early
            )
        return in_rows(log_probs), None if entropies is None else in_rows(entropies)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """So many actions at each step, ``[B, T, count]``."""

        def of_chunk(hidden: Tensor, early: Tensor | None = None) -> tuple[Tensor]:
            log_probs = self.sampling.apply(self.head(hidden), early).log_softmax(-1)
            return (torch.stack([draw(log_probs, generator) for _ in range(count)], dim=1),)

        others = [] if self.early is None else [self.early]
        with torch.no_grad(), self.autocast():
            (tokens,) = in_chunks(of_chunk, self.head, self.hidden, *others)
        return self.responses.in_rows(tokens)

    def kl(self, other: TokenDistribution) -> Tensor:
        """KL(self‖other) over the whole vocabulary, ``[B, T]`` in nats; gradients flow to both."""

        def of_chunk(
            hidden: Tensor, other_hidden: Tensor, early: Tensor | None = None
        ) -> tuple[Tensor]:
            logits = self.sampling.apply(self.head(hidden), early)
            return (exact(logits, other.sampling.apply(other.head(other_hidden), early)),)

        others = [other.hidden] if self.early is None else [other.hidden, self.early]
        with self.autocast():
            (kl,) = in_chunks(of_chunk, self.head, self.hidden, *others)
        return self.responses.in_rows(kl)

    def detach(self) -> TokenDistribution:
        """A copy, which later changes of the model do not affect: the head is copied."""
        return TokenDistribution(
            self.head.frozen(), self.hidden.detach(), self.responses, self.sampling,
            self.autocast, self.early,
        )  # fmt: skip


class TorchDistribution:
    """A `torch.distributions` distribution over all steps ``[B, T]``, counted or not."""

    def __init__(self, distribution: Distribution):
        self.distribution = distribution

    def log_probs(self, actions: Tensor, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """log π of ``actions`` ``[B, T, ...]`` and, if requested, the entropy of π, ``[B, T]``."""
        log_probs = self.distribution.log_prob(actions)
        return log_probs, self.distribution.entropy() if entropy else None

    def kl(self, other: TorchDistribution) -> Tensor:
        """KL(self‖other), ``[B, T]`` in nats; gradients flow to both."""
        return kl_divergence(self.distribution, other.distribution)

    def detach(self) -> TorchDistribution:
        """A copy of this distribution, without gradient."""
        base: Any = self.distribution
        inner = base.base_dist if hasattr(base, "base_dist") else base
        names = ["logits"] if hasattr(inner, "logits") else ["loc", "scale"]
        fixed = type(inner)(**{name: getattr(inner, name).detach() for name in names})
        if inner is not base:
            fixed = torch.distributions.Independent(fixed, base.reinterpreted_batch_ndims)
        return TorchDistribution(fixed)
