"""Keys and values: a table in which each sequence has its own length, and those of prompts."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from textenv.arrays import to_device


class CachedBody:
    """A model's body that reads tokens at given positions, beside a cache and under a mask."""

    def __init__(self, body: Any):
        self.body = body
        takes = inspect.signature(body.forward).parameters  # renamed in transformers 5.24
        self.argument = "cache" if "cache" in takes else "past_key_values"
        self.adds_mask = body.config.get_text_config()._attn_implementation == "eager"

    def __call__(
        self, cache: Cache, input_ids: Tensor, positions: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The last hidden states ``[B, T, H]`` of tokens at positions ``[B, T]`` (None: from 0 on).

        The mask, bool ``[B, 1, T, columns of the cache]``, says what may be attended to; None: each
        token may attend to those before it.
        """
        if self.adds_mask and mask is not None:  # eager attention adds its mask to the scores
            dtype = next(self.body.parameters()).dtype
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return self.body(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self.argument: cache},
        ).last_hidden_state


def read_whole(body: Any, input_ids: Tensor, device: torch.device) -> Tensor:
    """The last hidden states ``[R, L, H]`` of rows that a body reads from their first token on, in
    a copy on its device."""
    # Without any cache transformers asks the device at each pass whether several texts are packed
    # into a row.
    read, tokens = CachedBody(body), to_device(input_ids, device)
    return read(NoCache(body), tokens, None, None)


class _Layer(CacheLayerMixin):
    """What is the same in all caches here: masks and positions are given explicitly."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query: Any) -> tuple[int, int]:
        # A number of tokens; in earlier releases of transformers, their positions.
        return (query if isinstance(query, int) else len(query)), 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in earlier releases of transformers


class NoCache(Cache):
    """Keeps nothing: each pass reads whole rows."""

    def __init__(self, body: Any):
        count = body.config.get_text_config().num_hidden_layers
        super().__init__(layers=[_NoLayer() for _ in range(count)])


class _NoLayer(_Layer):
    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        return key_states, value_states


class PromptCache(Cache):
    """The keys and values of prompts, which many rows go on from; gradients flow through them.

    The first pass reads the prompts. After `go_on` each pass reads what follows them.
    """

    def __init__(self, body: nn.Module):
        config: Any = body.config
        count = config.get_text_config().num_hidden_layers
        super().__init__(layers=[_PromptLayer(self) for _ in range(count)])
        self.sources: Tensor | None = None
        self.columns = 0

    def go_on(self, sources: Tensor, columns: int) -> None:
        """Next pass: row i follows the prompt ``sources[i]``, of which ``columns`` are read."""
        self.sources, self.columns = sources, columns


class _PromptLayer(_Layer):
    """One attention layer's keys and values, each ``[prompts, heads, columns, size]``."""

    def __init__(self, cache: PromptCache):
        super().__init__()
        self.cache = cache

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        sources, columns = self.cache.sources, self.cache.columns
        if sources is None:
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        assert self.keys is not None and self.values is not None
        return tuple(
            torch.cat([prompt_states[:, :, :columns][sources], states], dim=2)
            for prompt_states, states in ((self.keys, key_states), (self.values, value_states))
        )


class RowCache(Cache):
    """A static table of keys and values for ``num_rows`` sequences of at most ``max_length``.

    The decoder sets before each forward pass where its keys and values are written:

    - `prefill`: whole prompts are written from column 0 on;
    - `step`: one token for each of the first rows is written at that row's own position;
    - `extend`: several tokens of some rows are written at their own positions.
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

    def extend(self, rows: Tensor, positions: Tensor, columns: int) -> None:
        """Next pass: tokens of the ``rows`` ``[R]`` of the table, written at ``positions``
        ``[R, K]``; attention as in `step`."""
        self.rows, self.positions, self.columns = rows, positions, columns

    def step(self, positions: Tensor, columns: int) -> None:
        """Next pass: one token for each of the first R rows, written at ``positions`` ``[R]``.

        Attention reads the first ``columns`` columns, of which the mask hides the future ones.
        """
        self.positions, self.columns = positions, columns

    def swap(self, one: Tensor, other: Tensor, columns: int) -> None:
        """Exchange the rows ``one[i]`` and ``other[i]``, of which ``columns`` columns are used."""
        here, there = torch.cat([one, other]), torch.cat([other, one])
        layers: Any = self.layers
        for layer in layers:
            for table in (layer.keys, layer.values):
                table[here, :, :columns] = table[there, :, :columns]


class _RowLayer(_Layer):
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
        if cache.positions.dim() == 2:  # several tokens of some rows
            assert cache.rows is not None
            at = cache.rows[:, None], slice(None), cache.positions
            self.keys[at], self.values[at] = (s.transpose(1, 2) for s in (key_states, value_states))
            read = (table[:, :, : cache.columns] for table in (self.keys, self.values))
            return tuple(table[cache.rows] for table in read)
        first = slice(len(cache.positions))  # a view, no copy
        self.keys[self._every[first], :, cache.positions] = key_states[:, :, 0]
        self.values[self._every[first], :, cache.positions] = value_states[:, :, 0]
        return self.keys[first, :, : cache.columns], self.values[first, :, : cache.columns]

    def get_max_length(self) -> int:
        return self.cache.max_length

    get_max_cache_shape = get_max_length
