"""States after other tokens are those of rows that end with them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import textenv.lm.lookahead as lookahead
from textenv.lm.cache import read_whole
from textenv.lm.lookahead import states_after
from textenv.lm.parts import split
from textenv.lm.responses import Responses

KINDS = [
    ("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gpt2", "eager"), ("qwen3", "sdpa"),
    ("gpt_neox", "sdpa"), ("opt", "sdpa"), ("gemma2", "eager"),
]  # fmt: skip


@pytest.fixture
def rows():
    """12 rows with prompts of 1 to 9 tokens and responses of 0 to 8, with gaps in the mask."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 200, (12, 17), generator=generator)
    prompt_lengths = torch.randint(1, 10, (12,), generator=generator)
    lengths = torch.randint(0, 9, (12,), generator=generator)
    mask = torch.arange(8) < lengths[:, None]
    return ids, prompt_lengths, mask & (torch.rand(12, 8, generator=generator) < 0.8)


@pytest.mark.parametrize(("architecture", "attention"), KINDS)
def test_states_are_those_of_whole_rows(architecture, attention, rows, make_model):
    ids, prompt_lengths, mask = rows
    body, _ = split(make_model(architecture, attention))
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(2, 200, (int(mask.sum()), 3), generator=generator)
    found = states_after(body, Responses(*rows), tokens)
    place = iter(range(len(tokens)))
    for row, step in mask.nonzero().tolist():
        number, column = next(place), int(prompt_lengths[row]) + step
        for k, token in enumerate(tokens[number]):
            whole = torch.cat([ids[row, :column], token[None]])[None]
            state = read_whole(body, whole, torch.device("cpu"))[0, -1]
            assert_close(found[number, k], state, rtol=1e-4, atol=1e-4)


def test_small_passes_change_nothing(rows, make_model, monkeypatch):
    body, _ = split(make_model())
    tokens = torch.arange(2, 2 + int(rows[2].sum()))[:, None].repeat(1, 2)
    whole = states_after(body, Responses(*rows), tokens)
    monkeypatch.setattr(lookahead, "ELEMENTS", 1)
    assert_close(states_after(body, Responses(*rows), tokens), whole, rtol=1e-4, atol=1e-5)


def test_own_tokens_of_dialogues_have_their_own_columns(rows, make_model):
    """Every second token after the prompt is one of a reply."""
    ids, prompt_lengths, mask = rows
    after = torch.arange(17) - prompt_lengths[:, None]
    own = (after >= 0) & (after % 2 == 0)
    body, _ = split(make_model())
    mask = mask & (torch.arange(8) < 4)
    tokens = torch.full((int(mask.sum()), 1), 7)
    found = states_after(body, Responses(ids, prompt_lengths, mask, own), tokens)
    for number, (row, step) in enumerate(mask.nonzero().tolist()):
        column = int(prompt_lengths[row]) + 2 * step
        whole = torch.cat([ids[row, :column], tokens[number]])[None]
        assert_close(
            found[number, 0], read_whole(body, whole, torch.device("cpu"))[0, -1],
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
