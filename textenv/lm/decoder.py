"""Decode token by token from a table of keys and values in which each row has its own length.

`RowCache` is the table; `Decoder` updates it for a batch of observations. A row of an observation
is contiguous from column 0, so a token's position is its column, and a row may attend to
``column <= position``: there is no left padding and no mask from token values. A row can be reset
or wait while the others continue, and rows with equal prompts share one prefill.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from textenv.lm.captured import CapturedStep
from textenv.lm.parts import body_of, split, unwrapped
from textenv.token_table import Origin


class RowCache(Cache):
    """A static table of keys and values for ``num_rows`` sequences of at most ``max_length``.

    The decoder sets before each forward pass where its keys and values are written:

    - `prefill`: whole prompts are written from column 0 on;
    - `step`: one token per row is written at that row's own position.
    """

    def __init__(self, num_layers: int, num_rows: int, max_length: int):
        super().__init__(layers=[_RowLayer(self) for _ in range(num_layers)])
        self.num_rows = num_rows
        self.max_length = max_length
        self.rows: Tensor | None = None
        self.sources: Tensor | None = None
        self.positions: Tensor | None = None
        self.columns = 0

    def prefill(self, rows: Tensor, sources: Tensor) -> None:
        """Next pass: row ``rows[i]`` of the table stores sequence ``sources[i]`` of the pass."""
        self.rows, self.sources, self.positions = rows, sources, None

    def step(self, rows: Tensor | None, positions: Tensor, columns: int) -> None:
        """Next pass: one token for each of ``rows`` (None: all), written at ``positions`` ``[R]``.

        Attention reads the first ``columns`` columns, of which the mask hides the future ones.
        """
        self.rows, self.positions, self.columns = rows, positions, columns


class _RowLayer(CacheLayerMixin):
    """One attention layer's keys and values, each ``[rows, heads, columns, size]``."""

    keys: Any  # tensors, created in the first pass, which defines their shapes
    values: Any

    def __init__(self, cache: RowCache):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def table(states: Tensor) -> Tensor:
            _, heads, _, size = states.shape
            return states.new_zeros(self.cache.num_rows, heads, self.cache.max_length, size)

        self.keys, self.values = table(key_states), table(value_states)
        self._every = torch.arange(self.cache.num_rows, device=key_states.device)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        if cache.positions is None:
            width = key_states.shape[2]
            self.keys[cache.rows, :, :width] = key_states[cache.sources]
            self.values[cache.rows, :, :width] = value_states[cache.sources]
            return key_states, value_states  # a new prompt attends only to itself
        rows = self._every if cache.rows is None else cache.rows
        self.keys[rows, :, cache.positions] = key_states[:, :, 0]
        self.values[rows, :, cache.positions] = value_states[:, :, 0]
        chosen = slice(None) if cache.rows is None else cache.rows  # all rows: a view, no copy
        return self.keys[chosen, :, : cache.columns], self.values[chosen, :, : cache.columns]

    # Masks and positions are given explicitly at every pass, so these results are not used.
    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return self.cache.max_length

    get_max_cache_shape = get_max_length  # its name in earlier releases of transformers


class Decoder:
    """A language model's next-token logits for a batch of growing token rows.

    It stores the tokens of each row, and passes to the model only what is missing in the cache: the
    one new token of a row that grew, all tokens of a row that is new or was changed, none of a row
    that waits. Equal prompts (the members of a group) are prefilled once.

    On CUDA a step of all rows is captured as a graph (`textenv.lm.captured`).

    Args:
        model: a causal language model of transformers, plain or wrapped by PEFT, that
            `textenv.lm.support.check_supported` accepts.
        num_rows: B, the number of rows of the table.
        max_length: L, the longest sequence that a row may hold.
        head: what to compute from the hidden states instead of logits, such as values.
        captured: whether steps are captured; None captures them on CUDA.
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
        takes = inspect.signature(self.body.forward).parameters  # renamed in transformers 5.24
        self.cache_argument = "cache" if "cache" in takes else "past_key_values"
        self.additive_mask = config._attn_implementation == "eager"
        self.cache = RowCache(config.num_hidden_layers, num_rows, max_length)
        self.num_rows, self.max_length = num_rows, max_length
        self.every_column = torch.arange(max_length, device=self.device)
        captured = self.device.type == "cuda" if captured is None else captured
        dtype = next(self.body.parameters()).dtype
        self.captured = CapturedStep(num_rows, max_length, self.device, dtype) if captured else None
        self.weights = self._addresses()
        self.forget()

    def forget(self) -> None:
        """Begin anew: every row is read from its beginning at the next call."""
        # The rows at the last call: their tokens, or the episodes that they belong to.
        self.seen = torch.zeros(self.num_rows, self.max_length, dtype=torch.int64)
        self.seen_lengths = torch.zeros(self.num_rows, dtype=torch.int64)
        self.origin: Origin | None = None
        self.columns = 0  # the length of the longest row, known without waiting for the device
        self.logits: Tensor | None = None
        self.hidden: Tensor | None = None

    def serves(self, model: nn.Module, num_rows: int, max_length: int) -> bool:
        """Whether this decoder can be used again for a model, with the weights where they were."""
        shape = (self.num_rows, self.max_length) == (num_rows, max_length)
        return self.model is model and shape and self.weights == self._addresses()

    def _addresses(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self.model.parameters()]

    @torch.no_grad()
    def next(
        self, input_ids: Tensor, lengths: Tensor, origin: Origin | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits for the token that follows each row.

        Args:
            input_ids: ``[B, L]`` int64, rows contiguous from column 0.
            lengths: ``[B]`` int64, the number of tokens of each row.
            origin: which episodes the rows belong to, as the environment counts them. If
                ``input_ids`` are on an accelerator, it tells which rows are new, so that no step
                waits for the device. Without it, and always on the CPU, every row is compared with
                its tokens at the last call.

        Returns:
            The logits ``[B, V]`` in float32 and the last hidden states ``[B, H]`` in float32.
        """
        if input_ids.shape[0] != self.num_rows or input_ids.shape[1] > self.max_length:
            raise ValueError(
                f"This decoder holds {self.num_rows} rows of at most {self.max_length} tokens, but "
                f"the observation has the shape {tuple(input_ids.shape)}."
            )
        if origin is not None and not input_ids.is_cpu:
            fresh, grown = self._changes_by_origin(lengths, origin)
        else:
            fresh, grown = self._changes_by_comparison(input_ids, lengths)
        input_ids, lengths = input_ids.to(self.device), lengths.to(self.device)
        if grown.any():
            # A step of all rows needs no copy of the cache. A waiting row can process its last
            # token again without harm, and the prefill of a new row overwrites this step.
            every = self.logits is not None and 2 * int(grown.sum()) > self.num_rows
            self._step(input_ids, lengths, None if every else grown.nonzero()[:, 0])
        if fresh.any():
            self._prefill(input_ids, lengths, fresh.nonzero()[:, 0])
        assert self.logits is not None and self.hidden is not None
        return self.logits, self.hidden

    def _changes_by_origin(self, lengths: Tensor, origin: Origin) -> tuple[Tensor, Tensor]:
        """Rows to prefill and rows that may have grown by one token, as CPU masks ``[B]``.

        A row of the same episode that did not grow only processes its last token again.
        """
        before, self.origin = self.origin, origin
        self.seen_lengths.zero_()  # the tokens themselves are not compared
        steps = -1 if before is None else origin.steps - before.steps
        if before is None or steps not in (0, 1):
            fresh = torch.ones(self.num_rows, dtype=torch.bool)
        else:
            fresh = torch.from_numpy(origin.episodes != before.episodes)
        if fresh.any():
            self.columns = int(lengths.max())
        else:
            self.columns = min(self.columns + steps, self.max_length)
        return fresh, ~fresh & (steps == 1)

    def _changes_by_comparison(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Rows to prefill and rows that have grown by one token, as CPU masks ``[B]``."""
        self.origin = None
        input_ids, lengths = input_ids.cpu(), lengths.cpu()
        width = input_ids.shape[1]
        ahead = torch.arange(width) >= self.seen_lengths[:, None]
        extends = ((input_ids == self.seen[:, :width]) | ahead).all(dim=1)
        lacking = lengths - self.seen_lengths
        fresh = ~extends | (lacking < 0) | (lacking > 1) | (self.seen_lengths == 0)
        self.seen[:, :width] = input_ids
        self.seen_lengths = lengths.clone()
        self.columns = int(lengths.max())
        return fresh, ~fresh & (lacking == 1)

    def _step(self, input_ids: Tensor, lengths: Tensor, rows: Tensor | None) -> None:
        if rows is not None:
            rows = rows.to(self.device)
            input_ids, lengths = input_ids[rows], lengths[rows]
        positions = (lengths - 1)[:, None]
        tokens = input_ids.gather(1, positions)
        if rows is None and self.captured is not None:
            step = self.captured(self._one_token, tokens, positions, self.columns)
        else:
            step = self._one_token(tokens, positions, self.columns, rows)
        self._keep(rows, *step)

    def _one_token(
        self, tokens: Tensor, positions: Tensor, columns: int, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and hidden states in float32 after one more token of each of ``rows`` (None: all).

        Args:
            tokens, positions: ``[R, 1]``.
            columns: of the table, that attention reads; the mask hides those of the future.
        """
        self.cache.step(rows, positions[:, 0], columns)
        mask = (self.every_column[:columns] <= positions)[:, None, None]
        hidden = self._forward(tokens, positions, mask)[:, 0]
        return self.head(hidden).float(), hidden.float()

    def _prefill(self, input_ids: Tensor, lengths: Tensor, rows: Tensor) -> None:
        rows = rows.to(self.device)
        lengths = lengths[rows]
        width = int(lengths.max())
        columns = self.every_column[:width]
        prompts = input_ids[rows, :width].masked_fill(columns >= lengths[:, None], 0)
        # Equal rows are computed once: the members of a group, or a prompt drawn twice.
        distinct, sources = torch.unique(
            torch.cat([prompts, lengths[:, None]], dim=1), dim=0, return_inverse=True
        )
        prompts, lengths = distinct[:, :-1], distinct[:, -1]
        self.cache.prefill(rows, sources)
        causal = (columns <= columns[:, None])[None, None].expand(len(prompts), 1, -1, -1)
        hidden = self._forward(prompts, columns.expand(len(prompts), -1), causal)
        last = hidden[torch.arange(len(prompts), device=self.device), lengths - 1]
        self._keep(rows, self.head(last).float()[sources], last.float()[sources])

    def _forward(self, input_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        if self.additive_mask:  # eager attention adds its mask to the scores
            dtype = next(self.body.parameters()).dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return self.body(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self.cache_argument: self.cache},
        ).last_hidden_state

    def _keep(self, rows: Tensor | None, logits: Tensor, hidden: Tensor) -> None:
        """Store logits and hidden states for ``rows`` (None: all)."""
        if rows is None or len(rows) == self.num_rows:
            self.logits, self.hidden = logits, hidden
            return
        # Not in place: the caller may still use what the last call returned.
        before, hidden_before = self.logits, self.hidden
        if before is None or hidden_before is None:
            before = logits.new_zeros(self.num_rows, logits.shape[1])
            hidden_before = hidden.new_zeros(self.num_rows, hidden.shape[1])
        self.logits = before.index_copy(0, rows, logits)
        self.hidden = hidden_before.index_copy(0, rows, hidden)
