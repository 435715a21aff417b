"""Teacher-forced scoring: log-probabilities of given tokens.

No ``[B, T, V]`` tensor is kept: the head is applied only at the response columns and, if there are
many, chunk by chunk. The logits of each chunk are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from textenv.arrays import to_device
from textenv.lm.cache import read_whole
from textenv.lm.early_stops import forbid
from textenv.lm.responses import Responses
from textenv.lm.shared_prompts import Pass, after_prompts, by_length, repeated_prompts

CHUNK_ELEMENTS = 2**27  # logits in one chunk: 512 MB in float32
# Where there is no backward pass, in which chunks are computed again, small ones cost no time.
WITHOUT_GRADIENT = 2**24


@dataclass(frozen=True)
class Sampling:
    """The rule from a model's logits to the distribution that tokens are drawn from.

    The same rule applies to acting and to the old, the new and the reference log-probabilities:
    a temperature that is used only in sampling would make every ratio and every KL wrong.
    """

    temperature: float = 1.0  # above 0; logits are divided by it
    banned_tokens: tuple[int, ...] = ()  # ids that are never drawn
    vocabulary: int | None = None  # logits beyond it are dropped (some heads are padded)
    forbids_early_stops: bool = False  # never draw what cannot stop yet (`textenv.lm.early_stops`)

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(
                f"temperature={self.temperature!r} must be above 0; "
                "for greedy text use deterministic=True."
            )

    def apply(self, logits: Tensor, early_stops: Tensor | None = None) -> Tensor:
        """Turn raw logits ``[..., V]`` of a head into those of the distribution, in float32.
        ``early_stops``: ids ``[..., K]`` of stop tokens that come too early, -1 for none."""
        logits = logits[..., : self.vocabulary].float()
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.banned_tokens:
            logits = logits.index_fill(-1, _index(self.banned_tokens, logits.device), -torch.inf)
        return forbid(logits, early_stops) if self.forbids_early_stops else logits

    def limited_to(self, vocabulary: int) -> Sampling:
        return replace(self, vocabulary=vocabulary)

    def banning(self, tokens: tuple[int, ...]) -> Sampling:
        """The same without some more tokens."""
        if set(tokens) <= set(self.banned_tokens):
            return self
        return replace(self, banned_tokens=tuple(sorted({*self.banned_tokens, *tokens})))


@cache
def _index(tokens: tuple[int, ...], device: torch.device) -> Tensor:
    """Cached on the device: a copy for each token would make the host wait."""
    return torch.tensor(tokens, device=device)


# Rows that one pass reads together, and their width; and a pass of none.
Together = tuple[Tensor, int]
NO_ROWS: Together = torch.zeros(0, dtype=torch.int64), 1


def response_states(
    body: nn.Module,
    responses: Responses,
    share_prompts: bool = True,
    in_step: Callable[[Iterable[Together]], Iterable[Together]] = iter,
) -> Tensor:
    """Hidden states ``[N, H]`` of a body from which each counted response token is predicted.

    Rows of similar length share a forward pass, so that little of it is spent on padding. Where
    many rows have the same prompt, as in groups, it is read once (`textenv.lm.shared_prompts`), if
    ``share_prompts`` allows it, which needs a cache. Of single steps, those that are in one episode
    share a row of it (`states_of_steps`). The order is that of ``responses.places``.

    ``in_step`` may add passes of `NO_ROWS`, where processes that share the weights have to make as
    many passes as the others.
    """
    mask, device = responses.mask, responses.device
    if mask.shape[1] == 1:
        rows = mask[:, 0]
        ids, lengths = responses.input_ids[rows], responses.prompt_lengths[rows]
        return states_of_steps(body, ids, lengths, device, in_step)
    place = (mask.flatten().cumsum(0) - 1).view(mask.shape)  # of each counted token in the result
    states, places = [], []
    prompts = repeated_prompts(responses) if share_prompts else None
    every = partial(whole_rows, in_step=in_step)
    passes = every if prompts is None else partial(after_prompts, prompts=prompts)
    for rows, hidden, first in passes(body, responses):
        row, step = mask[rows].nonzero(as_tuple=True)
        column = first[row] + responses.offsets[rows][row, step]
        at = to_device(torch.stack([row, column]), device)
        states.append(hidden[at[0], at[1]])
        places.append(place[rows][mask[rows]])
    return torch.cat(states)[to_device(torch.cat(places).argsort(), device)]


def whole_rows(body: nn.Module, responses: Responses, in_step: Callable = iter) -> Iterator[Pass]:
    """Passes that read prompts and responses. Rows of length 0 are left out."""
    needed = responses.prompt_lengths + responses.lengths - 1  # columns of each row
    for rows, width in in_step(by_length(needed.masked_fill(responses.lengths == 0, 0))):
        hidden = _read(body, responses.input_ids, rows, width, responses.device)
        yield rows, hidden, responses.prompt_lengths[rows] - 1


def _read(
    body: nn.Module, input_ids: Tensor, rows: Tensor, width: int, device: torch.device
) -> Tensor:
    """The last hidden states of some rows, as far as ``width``; of none a pass is made as well."""
    some = rows if len(rows) else torch.zeros(1, dtype=torch.int64)
    tokens = input_ids[some, :width] if len(input_ids) else input_ids.new_zeros(1, width)
    return read_whole(body, tokens, device)[: len(rows)]


def states_of_steps(
    body: nn.Module,
    input_ids: Tensor,
    lengths: Tensor,
    device: torch.device,
    in_step: Callable = iter,
) -> Tensor:
    """The last hidden state ``[N, H]`` of each of N token rows ``[N, L]`` on the CPU, in any order.

    A row that is the beginning of another one needs no forward pass of its own: attention is
    causal, so its state is that of its last column in the other row.
    """
    whole = longest(input_ids, lengths)
    distinct = whole.unique()
    states, places = [], []
    for chosen, width in in_step(by_length(lengths[distinct])):
        rows = distinct[chosen]
        hidden = _read(body, input_ids, rows, width, device)
        members = torch.isin(whole, rows).nonzero()[:, 0]
        # `rows` is in the order of length, not of index.
        order = rows.argsort()
        row = order[torch.searchsorted(rows[order], whole[members])]
        at = to_device(torch.stack([row, lengths[members] - 1]), device)
        states.append(hidden[at[0], at[1]])
        places.append(members)
    return torch.cat(states)[to_device(torch.cat(places).argsort(), device)]


def longest(input_ids: Tensor, lengths: Tensor) -> Tensor:
    """For each of N rows the index ``[N]`` of a longest row that begins with it; on the CPU."""
    tokens = input_ids.numpy().astype(">i8")
    keys = [row[:length].tobytes() for row, length in zip(tokens, lengths.tolist(), strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    whole = list(range(len(keys)))
    # In this order, whatever is between a row and an extension of it extends it, too.
    for row, following in zip(order[-2::-1], order[:0:-1], strict=True):
        if keys[following].startswith(keys[row]):
            whole[row] = whole[following]
    return torch.tensor(whole, dtype=torch.int64)


def token_log_probs(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    tokens: Tensor,
    sampling: Sampling,
    entropy: bool = False,
    early_stops: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """log π of ``tokens`` and, if requested, the entropy H(π) = −Σ π log π ``[N]``, both in nats,
    float32. The tokens are ``[N]``, or ``[N, K]``, several for each state.

    Gradients flow to ``hidden`` ``[N, H]`` and to the head, which turns it into logits.
    ``early_stops``: ``[N, K]``, as `Sampling.apply` takes it.
    """

    def score_chunk(
        hidden: Tensor, tokens: Tensor, early_stops: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        logits = sampling.apply(head(hidden), early_stops)
        if tokens.dim() == 1:
            log_probs = -F.cross_entropy(logits, tokens, reduction="none")
        else:
            log_probs = F.log_softmax(logits, dim=-1).gather(1, tokens)
        if not entropy:
            return log_probs, log_probs
        every = F.log_softmax(logits, dim=-1)
        # A banned token has p log p = 0, but 0 · (−inf) would be nan.
        return log_probs, -(every.exp() * every.masked_fill(every == -torch.inf, 0)).sum(-1)

    others = [tokens] if early_stops is None else [tokens, early_stops]
    log_probs, entropies = in_chunks(score_chunk, head, hidden, *others)
    return log_probs, entropies if entropy else None


def in_chunks(function: Callable, head: Callable, hidden: Tensor, *others: Tensor):
    """Apply ``function(hidden, *others)`` to ``[N, ...]`` inputs so that few logits exist at once.

    Chunks are recomputed in the backward pass, which also limits the memory of training.
    """
    with torch.no_grad():
        vocabulary = head(hidden[:1]).shape[-1] if len(hidden) else 1
    elements = CHUNK_ELEMENTS if torch.is_grad_enabled() else min(CHUNK_ELEMENTS, WITHOUT_GRADIENT)
    size = max(1, elements // vocabulary)
    if len(hidden) <= size:
        return function(hidden, *others)
    chunks = zip(hidden.split(size), *(other.split(size) for other in others), strict=True)
    results = [checkpoint(function, *chunk, use_reentrant=False) for chunk in chunks]
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))
