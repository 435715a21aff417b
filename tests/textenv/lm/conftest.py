"""Rows of tokens that a test grows and rewrites, and what their logits have to be."""

from __future__ import annotations

import pytest
import torch

from textenv.lm.decoder import Decoder


class Rows:
    """Token rows, contiguous from column 0."""

    def __init__(self, *prompts: list[int], length: int = 16):
        # What lies behind a row's length is not its own; it must not matter what it is.
        self.input_ids = torch.full((len(prompts), length), 7)
        self.lengths = torch.zeros(len(prompts), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            self.begin(row, prompt)

    def begin(self, row: int, prompt: list[int]) -> None:
        self.input_ids[row] = 7
        self.input_ids[row, : len(prompt)] = torch.tensor(prompt)
        self.lengths[row] = len(prompt)

    def grow(self, *rows: int, token: int = 40) -> None:
        for row in rows:
            self.input_ids[row, self.lengths[row]] = token + row
            self.lengths[row] += 1

    def next_of(self, decoder: Decoder):
        return decoder.next(self.input_ids.clone(), self.lengths.clone())


@pytest.fixture(scope="session")
def make_rows():
    """``make_rows([5, 6], [7])``: token rows that begin with these prompts."""
    return Rows


@pytest.fixture(scope="session")
def assert_same_as_full_forward(full_forward):
    """The decoder's logits for the rows are those of plain passes over each of them."""

    def check(decoder: Decoder, model, rows: Rows) -> None:
        logits, _ = rows.next_of(decoder)
        wanted = full_forward(model, rows.input_ids, rows.lengths)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)

    return check
