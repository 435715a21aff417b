"""A table of keys and values in which each sequence has its own length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class RowCache(Cache):
    """A static table of keys and values for ``num_rows`` sequences of at most ``max_length``.

    The decoder sets before each forward pass where its keys and values are written:

    - `prefill`: whole prompts are written from column 0 on;
    - `step`: one token for each of the first rows is written at that row's own position.
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
        first = slice(len(cache.positions))  # a view, no copy
        self.keys[self._every[first], :, cache.positions] = key_states[:, :, 0]
        self.values[self._every[first], :, cache.positions] = value_states[:, :, 0]
        return self.keys[first, :, : cache.columns], self.values[first, :, : cache.columns]

    # Masks and positions are given explicitly at every pass, so these results are not used.
    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return self.cache.max_length

    get_max_cache_shape = get_max_length  # its name in earlier releases of transformers
