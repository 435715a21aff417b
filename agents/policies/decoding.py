"""One step of generation: from observations to logits, and to tokens."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents.policies.distributions import draw
from textenv.lm.decoder import Decoder
from textenv.lm.early_stops import forbid, next_early_stops
from textenv.lm.log_probs import Sampling


def next_tokens(
    decoder: Decoder,
    observation: dict[str, Any],
    sampling: Sampling,
    generator: torch.Generator,
    deterministic: bool = False,
    action_masks: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token for each row of an observation, from a cache of what came before: actions ``[B]``,
    their log-probabilities ``[B]`` (nats), and the body's last hidden states ``[B, H]`` from which
    they were drawn.

    Rows whose episode has ended, where the observation says so, get the action 0, whatever it is,
    and no part of the work. The others get the same as without them. ``action_masks``: bool
    ``[B, V]``, tokens that may be chosen; None: all that ``sampling`` has.
    """
    count, rows = len(observation["input_ids"]), running_rows(observation)
    logits, hidden, early = next_logits(decoder, observation, rows)
    every = sampling.apply(logits, early)
    if action_masks is not None:
        legal = torch.as_tensor(action_masks, dtype=torch.bool)
        every = forbid(every, ~(legal if rows is None else legal[rows]))
    every = every.log_softmax(dim=-1)
    actions = every.argmax(dim=-1) if deterministic else draw(every, generator, rows, count)
    log_probs = every.gather(1, actions[:, None])[:, 0]
    actions, log_probs, hidden = (among(part, rows, count) for part in (actions, log_probs, hidden))
    return actions, log_probs, hidden


def next_logits(
    decoder: Decoder, observation: dict[str, Any], rows: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the decoder's head gives for each of ``rows``, indices ``[R]`` (None: all), as
    ``[R, ...]``; the hidden states ``[R, H]``; and the stops ``[R, K]`` that are too early, or
    None."""
    input_ids = torch.as_tensor(observation["input_ids"])
    lengths = torch.as_tensor(observation["attention_mask"]).sum(dim=1, dtype=torch.int64)
    logits, hidden = decoder.next(input_ids, lengths, getattr(observation, "origin", None), rows)
    early = next_early_stops(observation, lengths)
    return logits, hidden, early if rows is None or early is None else early[rows]


def running_rows(observation: Any) -> Tensor | None:
    """Indices of the rows whose action counts; None if all do or none does, or if the observation
    does not say so."""
    running = getattr(observation, "running", None)
    return running.nonzero()[:, 0] if running is not None and running.any() else None


def among(part: Tensor, rows: Tensor | None, count: int) -> Tensor:
    """A column ``[R, ...]`` of some of ``count`` rows as one of all, 0 elsewhere."""
    if rows is None:
        return part
    return part.new_zeros((count, *part.shape[1:])).index_copy(0, rows.to(part.device), part)


@dataclass
class Caches:
    """The state of a policy that generates: its cache, and that of a separate critic."""

    policy: Decoder
    critic: Decoder | None = None


class Decoders:
    """Decoders for a policy's rollouts. Those with captured steps are kept, and used again.

    A decoder belongs to one state at a time, and comes back when nobody refers to the state.
    """

    KEPT = 4  # a table for training and one for evaluation, each with a critic's

    def __init__(self, captured: bool | None = None):
        self.captured = captured
        self._idle: list[Decoder] = []

    def __deepcopy__(self, memo: dict) -> Decoders:
        return Decoders(self.captured)  # tables and captured steps belong to one model

    def take(
        self,
        model: nn.Module,
        num_rows: int,
        max_length: int,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Decoder:
        """A decoder without any row: one that is idle, or a new one."""
        for decoder in self._idle:
            if decoder.serves(model, num_rows, max_length):
                self._idle.remove(decoder)
                decoder.forget()
                return decoder
        return Decoder(model, num_rows, max_length, head, self.captured)

    def lend(self, caches: Caches) -> Caches:
        """The same caches; their decoders come back when nobody refers to the caches."""
        for decoder in (caches.policy, caches.critic):
            if decoder is not None and decoder.captured is not None:
                weakref.finalize(caches, self._give_back, decoder).atexit = False
        return caches

    def _give_back(self, decoder: Decoder) -> None:
        self._idle = [*self._idle, decoder][-self.KEPT :]
