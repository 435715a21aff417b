"""Decode token by token from a table of keys and values in which each row has its own length.

`textenv.lm.cache` is the table; `Decoder` updates it for a batch of observations. A row of an
observation is contiguous from column 0, so a token's position is its column, and a row may attend
to ``column <= position``: there is no left padding and no mask from token values. A row can be
reset or wait while the others continue, and rows with equal prompts share one prefill.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from textenv.arrays import Origin, to_device, to_host
from textenv.lm.cache import CachedBody, RowCache
from textenv.lm.captured import CapturedStep
from textenv.lm.parts import body_of, split, unwrapped

ALIGNED = 8  # attention is slow over a number of columns that is no multiple of it


class Decoder:
    """A language model's next-token logits for a batch of growing token rows.

    It stores the tokens of each row, and passes to the model only what is missing in the cache: the
    new tokens of a row that grew, all tokens of a row that is new or was changed, none of a row
    that waits. A row grows by one token, or in a dialogue by a reply as well. Equal prompts (the
    members of a group) are prefilled once.

    The rows that step are the first ones of the cache, so that attention reads them in place: where
    a row begins to wait, it changes places with one that goes on.

    Where ``captured``, by default on CUDA, all rows step, as a captured graph
    (`textenv.lm.captured`).

    The model is one that `textenv.lm.support.check_supported` accepts; the table has B rows of at
    most L tokens. ``head`` computes something else from the hidden states than logits, as values.
    """

    def __init__(
        self,
        model: nn.Module,
        num_rows: int,
        max_length: int,
        head: Callable[[Tensor], Tensor] | None = None,
        captured: bool | None = None,
    ):
        self.model = model
        self.head: Callable[[Tensor], Tensor]
        if head is None:
            self.body, self.head = split(model)
        else:
            self.body, self.head = body_of(model), head
        config = unwrapped(model).config.get_text_config()
        self.device = next(self.body.parameters()).device
        self.read = CachedBody(self.body)
        columns = -(-max_length // ALIGNED) * ALIGNED
        self.cache = RowCache(config.num_hidden_layers, num_rows, columns)
        self.num_rows, self.max_length = num_rows, max_length
        self.every_column = torch.arange(columns, device=self.device)
        captured = self.device.type == "cuda" if captured is None else captured
        dtype = next(self.body.parameters()).dtype
        self.captured = CapturedStep(num_rows, columns, self.device, dtype) if captured else None
        self.weights = self._addresses()
        self.forget()

    def forget(self) -> None:
        """Begin anew: every row is read from its beginning at the next call."""
        # The rows at the last call: their tokens, or the episodes that they belong to.
        self.seen = torch.zeros(self.num_rows, self.max_length, dtype=torch.int64)
        self.seen_lengths = torch.zeros(self.num_rows, dtype=torch.int64)
        self.origin: Origin | None = None
        # What each row is not longer than, and all of them, known without waiting for the device.
        self.bounds, self.columns = torch.zeros(self.num_rows, dtype=torch.int64), 0
        self.places = Places(self.num_rows, self.device)
        self.results: list[Tensor] = []  # logits [B, V] and hidden states [B, H] of all rows
        self.lent = False  # whether a caller has them, so that they must not be changed

    def serves(self, model: nn.Module, num_rows: int, max_length: int) -> bool:
        """Whether this decoder can be used again for a model, with the weights where they were."""
        shape = (self.num_rows, self.max_length) == (num_rows, max_length)
        return self.model is model and shape and self.weights == self._addresses()

    def _addresses(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self.model.parameters()]

    @torch.no_grad()
    def next(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        origin: Origin | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The logits ``[R, V]`` for the token that follows each row, and the last hidden states
        ``[R, H]``, both in float32.

        Args:
            input_ids: ``[B, L]`` int64, rows contiguous from column 0.
            lengths: ``[B]`` int64, the number of tokens of each row.
            origin: which episodes the rows belong to, as the environment counts them. If
                ``input_ids`` are on an accelerator, it tells which rows are new, so that no step
                waits for the device. Without it, and always on the CPU, every row is compared with
                its tokens at the last call.
            rows: indices ``[R]`` of the rows that are asked for; None: all. On the CPU the others
                are not read yet.
        """
        if input_ids.shape[0] != self.num_rows or input_ids.shape[1] > self.max_length:
            raise ValueError(
                f"This decoder holds {self.num_rows} rows of at most {self.max_length} tokens, but "
                f"the observation has the shape {tuple(input_ids.shape)}."
            )
        if origin is not None and not input_ids.is_cpu:
            fresh, lacking = self._changes_by_origin(lengths, origin)
        else:
            fresh, lacking = self._changes_by_comparison(input_ids, lengths)
            if rows is not None:
                fresh, lacking = self._put_off(fresh, lacking, rows)
        if (lacking == 1).any():
            # A captured step is one of all rows: those that wait process their last token again,
            # which does no harm, and what those that are new or grew by more read overwrites it.
            self._step(input_ids, lengths, (lacking == 1) | (self.captured is not None))
        if (lacking > 1).any():
            self._extend(input_ids, lengths, lacking)
        if fresh.any():
            self._prefill(input_ids, lengths, fresh.nonzero()[:, 0])
        if rows is None:
            self.lent = True
            return self.results[0], self.results[1]
        return self.results[0][rows], self.results[1][rows]

    def _changes_by_origin(self, lengths: Tensor, origin: Origin) -> tuple[Tensor, Tensor]:
        """Rows to prefill, a mask ``[B]``, and how many tokens the others may lack ``[B]``; both on
        the CPU.

        A row of the same episode that did not grow only processes its last token again.
        """
        before, self.origin = self.origin, origin
        self.seen_lengths.zero_()  # the tokens themselves are not compared
        steps = -1 if before is None else origin.steps - before.steps
        if before is None or steps not in (0, 1):
            fresh = torch.ones(self.num_rows, dtype=torch.bool)
        else:
            fresh = torch.from_numpy(origin.episodes != before.episodes)
        lacking = torch.full_like(self.bounds, max(steps, 0))
        if origin.lengths is not None:  # known on the host, and exact
            after = torch.from_numpy(origin.lengths)
            lacking = (after - self.bounds).clamp(min=steps)
        self.bounds = (self.bounds + lacking).clamp(max=self.max_length)
        self.bounds[fresh] = 0  # until they are read
        self.columns = int(self.bounds.max())
        return fresh, lacking.masked_fill(fresh, 0)

    def _changes_by_comparison(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Rows to prefill, a mask ``[B]``, and how many tokens the others lack ``[B]``; both on the
        CPU."""
        self.origin = None
        input_ids, lengths = input_ids.cpu(), lengths.cpu()
        width = input_ids.shape[1]
        ahead = torch.arange(width) >= self.seen_lengths[:, None]
        extends = ((input_ids == self.seen[:, :width]) | ahead).all(dim=1)
        lacking = lengths - self.seen_lengths
        fresh = ~extends | (lacking < 0) | (self.seen_lengths == 0)
        self.seen[:, :width] = input_ids
        self.seen_lengths = lengths.clone()
        self.columns = int(lengths.max())
        return fresh, lacking.masked_fill(fresh, 0)

    def _put_off(self, fresh: Tensor, lacking: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of the changes only those of ``rows``; those of the others are seen at a later call."""
        others = torch.ones_like(fresh)
        others[rows.cpu()] = False
        self.seen_lengths[others & fresh] = 0
        self.seen_lengths -= lacking * others
        return fresh & ~others, lacking.masked_fill(others, 0)

    def _step(self, input_ids: Tensor, lengths: Tensor, steps: Tensor) -> None:
        """One more token of each row of the CPU mask ``steps`` ``[B]``."""
        moved = self.places.bring_to_front(steps)
        if moved is not None:
            self.cache.swap(*moved, self.columns)
        rows = self.places.first(int(steps.sum()))
        if rows is not None:
            at = to_device(rows, input_ids.device)
            input_ids, lengths, rows = input_ids[at], lengths[at], to_device(rows, self.device)
        positions = (lengths - 1)[:, None]
        tokens = to_device(input_ids.gather(1, positions), self.device)
        positions = to_device(positions, self.device)
        if rows is None and self.captured is not None:
            results = self.captured(self._one_token, tokens, positions, self.columns)
        else:
            results = self._one_token(tokens, positions, self.columns)
        self._keep(rows, results)

    def _one_token(self, tokens: Tensor, positions: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """Logits and hidden states in float32 after one more token ``[R, 1]`` of the first R rows.
        Attention reads that many ``columns``, of which the mask hides those of the future."""
        self.cache.step(positions[:, 0], columns)
        mask = (self.every_column[:columns] <= positions)[:, None, None]
        hidden = self.read(self.cache, tokens, positions, mask)[:, 0]
        return self.head(hidden).float(), hidden.float()

    def _extend(self, input_ids: Tensor, lengths: Tensor, lacking: Tensor) -> None:
        """Read the last tokens of the rows that ``lacking`` ``[B]``, on the CPU, has more than one
        of. One that lacks fewer than others reads some earlier tokens again, which does no harm.

        So the last token of each row is the last one of the pass, as GPT-2 of earlier releases of
        transformers needs it, whose eager attention has a causal mask of its own."""
        rows = (lacking > 1).nonzero()[:, 0]
        at, width = to_device(rows, input_ids.device), int(lacking.max())
        back = torch.arange(width - 1, -1, -1, device=input_ids.device)
        positions = ((lengths[at] - 1)[:, None] - back).clamp(min=0)
        tokens = to_device(input_ids[at].gather(1, positions), self.device)
        positions, rows = to_device(positions, self.device), to_device(rows, self.device)
        self.cache.extend(self.places.at(rows), positions, self.columns)
        mask = (self.every_column[: self.columns] <= positions[:, :, None])[:, None]
        hidden = self.read(self.cache, tokens, positions, mask)[:, -1]
        self._keep(rows, (self.head(hidden).float(), hidden.float()))

    def _prefill(self, input_ids: Tensor, lengths: Tensor, rows: Tensor) -> None:
        """Read the prompts of ``rows``, indices on the CPU, from their beginning."""
        at = to_device(rows, input_ids.device)
        input_ids, lengths = to_host(input_ids[at], lengths[at])
        self.bounds[rows] = lengths
        self.columns = max(self.columns, width := int(lengths.max()))
        beyond = torch.arange(width) >= lengths[:, None]
        prompts = input_ids[:, :width].masked_fill(beyond, 0)
        # Equal rows are computed once: the members of a group, or a prompt drawn twice.
        distinct, sources = torch.unique(
            torch.cat([prompts, lengths[:, None]], dim=1), dim=0, return_inverse=True
        )
        distinct, sources, rows = (
            to_device(part, self.device) for part in (distinct, sources, rows)
        )
        prompts, lengths = distinct[:, :-1], distinct[:, -1]
        self.cache.prefill(self.places.at(rows), sources)
        columns = self.every_column[:width]
        causal = (columns <= columns[:, None])[None, None].expand(len(prompts), 1, -1, -1)
        hidden = self.read(self.cache, prompts, columns.expand(len(prompts), -1), causal)
        last = hidden[torch.arange(len(prompts), device=self.device), lengths - 1]
        self._keep(rows, (self.head(last).float()[sources], last.float()[sources]))

    def _keep(self, rows: Tensor | None, new: tuple[Tensor, Tensor]) -> None:
        """Store logits and hidden states for ``rows`` (None: all)."""
        if rows is None:
            self.results, self.lent = list(new), False
            return
        if not self.results:
            self.results = [part.new_zeros(self.num_rows, part.shape[1]) for part in new]
        elif self.lent:
            self.results = [part.clone() for part in self.results]
        self.lent = False
        for table, part in zip(self.results, new, strict=True):
            table[rows] = part


class Places:
    """Which place of the cache each row has, so that the rows that step are the first ones."""

    def __init__(self, num_rows: int, device: torch.device):
        self.device = device
        self.rows = torch.arange(num_rows)  # of each place
        self.places = torch.arange(num_rows)  # of each row
        self.in_order = True

    def bring_to_front(self, steps: Tensor) -> tuple[Tensor, Tensor] | None:
        """Give the rows of the mask ``steps`` ``[B]`` the first places. The pairs of places whose
        content has to be exchanged; None if there are none."""
        ahead = steps[self.rows]  # by places
        count = int(steps.sum())
        vacant, late = (~ahead[:count]).nonzero()[:, 0], ahead[count:].nonzero()[:, 0] + count
        if len(late) == 0:
            return None
        here, there = self.rows[vacant], self.rows[late]
        self.rows[vacant], self.rows[late] = there, here
        self.places[there], self.places[here] = vacant, late
        self.in_order = False
        return to_device(vacant, self.device), to_device(late, self.device)

    def first(self, count: int) -> Tensor | None:
        """The rows in the first places, on the CPU; None if they are all rows in their order."""
        return None if self.in_order and count == len(self.rows) else self.rows[:count]

    def at(self, rows: Tensor) -> Tensor:
        """The places of rows."""
        return rows if self.in_order else to_device(self.places, self.device)[rows]
