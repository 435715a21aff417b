"""A prompt that many rows share is read once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

import textenv.lm.shared_prompts as prompts_once
from textenv.lm.log_probs import response_states
from textenv.lm.parts import split
from textenv.lm.responses import Responses
from textenv.lm.shared_prompts import repeated_prompts

KINDS = [
    ("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gpt2", "eager"), ("qwen3", "sdpa"),
    ("gpt_neox", "sdpa"), ("opt", "sdpa"), ("gemma2", "eager"),
]  # fmt: skip


@pytest.fixture
def grouped():
    """40 rows of 24 tokens with 5 prompts of 1 to 12 tokens; half of the rows begin alike.

    Gives tokens, lengths of the prompts, and a mask of responses of 0 to 12 tokens.
    """
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(2, 200, (40, 24), generator=generator)
    prompt_lengths = torch.tensor([12, 7, 12, 1, 9])[torch.arange(40) % 5]
    kinds = torch.randint(2, 200, (5, 12), generator=generator)
    kinds[2, :11] = kinds[0, :11]  # two prompts differ in their last token alone
    inside = torch.arange(12) < prompt_lengths[:, None]
    ids[:, :12] = torch.where(inside, kinds[torch.arange(40) % 5], ids[:, :12])
    lengths = torch.randint(0, 13, (40,), generator=generator)
    lengths[torch.arange(40) % 5 == 4] = 0  # a prompt that nobody goes on from
    return ids, prompt_lengths, torch.arange(12) < lengths[:, None]


@pytest.fixture
def one_by_one(monkeypatch):
    """``one_by_one(function)``: what it gives where no prompt is shared."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(prompts_once, "WORTH", 2.0)
            return function()

    return call


@pytest.mark.parametrize(("architecture", "attention"), KINDS)
def test_states_and_gradients_are_those_of_whole_rows(
    architecture, attention, grouped, one_by_one, make_model, count_passes
):
    model = make_model(architecture, attention)
    body, _ = split(model)
    weights = [p for p in body.parameters() if p.requires_grad]

    def states_and_gradients():
        states = response_states(body, Responses(*grouped))
        towards = torch.linspace(-1, 1, states.numel()).view_as(states)
        gradients = torch.autograd.grad((states * towards).sum(), weights, allow_unused=True)
        return states, [g for g in gradients if g is not None]

    whole, whole_gradients = one_by_one(states_and_gradients)
    shapes = count_passes(model)
    shared, gradients = states_and_gradients()
    assert len(shapes) > 1 and shapes[0][0] <= 4  # the different prompts come first
    torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-4)
    assert len(gradients) == len(whole_gradients) > 3
    for one, other in zip(gradients, whole_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_gaps_in_the_mask_and_odd_rows_are_right(grouped, one_by_one, make_model):
    body, _ = split(make_model())
    ids, prompt_lengths, mask = grouped
    gaps = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.7)
    for some in (gaps, mask & (torch.arange(12) < 2), mask & (torch.arange(40) == 7)[:, None]):
        arguments = body, Responses(ids, prompt_lengths, some)
        with torch.no_grad():
            whole = one_by_one(lambda arguments=arguments: response_states(*arguments))
            torch.testing.assert_close(response_states(*arguments), whole, rtol=1e-4, atol=1e-4)


def test_it_is_done_only_where_it_saves_much(grouped):
    ids, prompt_lengths, mask = grouped
    found = repeated_prompts(Responses(*grouped))
    assert found is not None and len(found.lengths) == 5
    for row in range(40):
        which = found.prompt_of_row[row]
        assert found.lengths[which] == (n := prompt_lengths[row])
        assert torch.equal(found.input_ids[which, :n], ids[row, :n])
    assert repeated_prompts(Responses(ids[:5], prompt_lengths[:5], mask[:5])) is None  # all differ
    long = torch.nn.functional.pad(mask, (1000, 0), value=True)
    assert repeated_prompts(Responses(ids, prompt_lengths, long)) is None  # long responses
