"""The decoder gives the logits of transformers' own forward pass, whatever its rows go through."""

from __future__ import annotations

import pytest
import torch

from textenv.lm.decoder import Decoder
from textenv.lm.parts import split

LENGTH = 16
KINDS = [
    ("llama", "sdpa"),
    ("llama", "eager"),
    ("gpt2", "sdpa"),
    ("gpt2", "eager"),
    ("qwen3", "sdpa"),
    ("qwen3", "eager"),
    ("gpt_neox", "sdpa"),
    ("gpt_neox", "eager"),
    ("opt", "sdpa"),
    ("opt", "eager"),
    ("gemma2", "eager"),
]
every_kind = pytest.mark.parametrize(
    ("architecture", "attention"), KINDS, ids=["-".join(kind) for kind in KINDS]
)


@every_kind
def test_rows_that_grow_wait_and_begin_anew_have_the_logits_of_the_full_forward(
    architecture, attention, make_model, make_rows, assert_same_as_full_forward
):
    model = make_model(architecture, attention)
    decoder = Decoder(model, num_rows=4, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8, 7, 6, 5], [3, 3, 4], [9, 8, 7, 6, 5])
    assert_same_as_full_forward(decoder, model, rows)
    for token in (40, 60, 80):
        rows.grow(0, 1, 2, 3, token=token)
        assert_same_as_full_forward(decoder, model, rows)
    rows.grow(0, 2)  # rows 1 and 3 wait
    assert_same_as_full_forward(decoder, model, rows)
    rows.grow(2)  # one row of four goes on alone
    assert_same_as_full_forward(decoder, model, rows)
    rows.begin(0, [11, 12, 13])  # one begins while the others go on
    rows.grow(1, 2, 3)
    assert_same_as_full_forward(decoder, model, rows)
    rows.begin(2, list(range(20, 32)))  # a longer prompt than ever, while the others wait
    assert_same_as_full_forward(decoder, model, rows)
    rows.begin(1, [5])
    rows.begin(3, [5])
    rows.grow(0, 2)
    assert_same_as_full_forward(decoder, model, rows)
    for token in (41, 61, 81):  # row 2 reaches the end of the table
        rows.grow(0, 1, 2, 3, token=token)
        assert_same_as_full_forward(decoder, model, rows)
    assert rows.lengths.max() == LENGTH


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_any_fate_have_the_logits_of_the_full_forward(
    seed, make_model, make_rows, assert_same_as_full_forward
):
    """Rows change places in the cache whenever others begin to wait."""
    model, draw = make_model(), torch.Generator().manual_seed(seed)
    decoder = Decoder(model, num_rows=6, max_length=LENGTH)
    rows = make_rows(*([row + 1, row + 2] for row in range(6)))
    moved = 0
    for step in range(40):
        assert_same_as_full_forward(decoder, model, rows)
        moved += not torch.equal(decoder.places.rows, torch.arange(6))
        fate = torch.rand(6, generator=draw)
        for row in range(6):
            if fate[row] < 0.1 or rows.lengths[row] == LENGTH:
                rows.begin(row, [row + 3, step % 50 + 1, 7][: 1 + step % 3])
            elif fate[row] < 0.6:
                rows.grow(row, token=10 + (7 * step + row) % 50)
    assert moved > 10


def test_some_rows_can_be_asked_for(
    make_model, make_rows, full_forward, assert_same_as_full_forward
):
    model = make_model()
    decoder = Decoder(model, num_rows=3, max_length=LENGTH)
    rows, asked = make_rows([5, 6], [9, 8, 7], [3]), torch.tensor([2, 0])
    for _ in range(3):
        logits, hidden = decoder.next(rows.input_ids, rows.lengths, rows=asked)
        wanted = full_forward(model, rows.input_ids, rows.lengths)[asked]
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
        assert hidden.shape == (2, 16)
        rows.grow(0, 1, 2)
    assert_same_as_full_forward(decoder, model, rows)  # row 1 is read now


def test_rows_that_nobody_asks_for_are_read_when_somebody_does(
    make_model, make_rows, count_passes, assert_same_as_full_forward
):
    model = make_model()
    decoder = Decoder(model, num_rows=3, max_length=LENGTH)
    rows, asked = make_rows([5, 6], [9, 8, 7], [3]), torch.tensor([1])
    assert_same_as_full_forward(decoder, model, rows)
    shapes = count_passes(model)

    def next_of_one():
        shapes.clear()
        decoder.next(rows.input_ids, rows.lengths, rows=asked)
        return list(shapes)

    rows.grow(0, 1, 2)
    assert next_of_one() == [(1, 1)]
    assert next_of_one() == []
    rows.begin(2, [4, 4])
    assert next_of_one() == []
    rows.grow(1)
    assert next_of_one() == [(1, 1)]
    rows.grow(0)  # two tokens more than what was read
    assert_same_as_full_forward(decoder, model, rows)
    rows.grow(0, 1, 2)
    assert_same_as_full_forward(decoder, model, rows)


@every_kind
def test_the_tiny_models_notice_order_and_position(
    architecture, attention, make_model, make_rows, full_forward
):
    # Without this, equality to the full forward would show little.
    model = make_model(architecture, attention)
    rows = make_rows([5, 6, 7, 8], [6, 5, 7, 8], [6, 7, 8], [4, 6, 7, 8])
    logits = full_forward(model, rows.input_ids, rows.lengths)
    for other in logits[1:]:
        assert (logits[0] - other).abs().max() > 0.1


@every_kind
def test_the_hidden_states_are_those_that_the_head_reads(
    architecture, attention, make_model, make_rows
):
    model = make_model(architecture, attention)
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8, 7])
    rows.next_of(decoder)
    rows.grow(0)
    logits, hidden = rows.next_of(decoder)
    assert hidden.shape == (2, 16) and hidden.dtype == logits.dtype == torch.float32
    _, head = split(model)
    torch.testing.assert_close(head(hidden), logits)


def test_a_row_that_was_rewritten_is_read_anew(make_model, make_rows, assert_same_as_full_forward):
    model = make_model()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = make_rows([5, 6, 7], [9, 8, 7])
    assert_same_as_full_forward(decoder, model, rows)
    rows.input_ids[0, 1] = 66  # as long as before, but another text
    assert_same_as_full_forward(decoder, model, rows)
    rows.lengths[1] = 2  # a token is taken back
    assert_same_as_full_forward(decoder, model, rows)
    rows.begin(0, [5, 66, 7, 8, 9])  # two tokens more at once
    assert_same_as_full_forward(decoder, model, rows)


def test_narrower_observations_than_the_table_are_right(
    make_model, make_rows, assert_same_as_full_forward
):
    model = make_model()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = make_rows([5, 6, 7], [9, 8], length=6)
    for _ in range(3):
        assert_same_as_full_forward(decoder, model, rows)
        rows.grow(0, 1)


def test_what_was_returned_does_not_change_later(make_model, make_rows):
    decoder = Decoder(make_model(), num_rows=4, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8], [3, 3], [4, 4])
    first = rows.next_of(decoder)
    kept = [tensor.clone() for tensor in first]
    rows.grow(1)
    rows.next_of(decoder)
    rows.begin(2, [8, 8, 8])
    rows.next_of(decoder)
    assert all(torch.equal(now, then) for now, then in zip(first, kept, strict=True))


def test_the_model_is_fed_only_what_the_cache_lacks(make_model, count_passes, make_rows):
    model = make_model()
    decoder = Decoder(model, num_rows=4, max_length=LENGTH)
    shapes = count_passes(model)
    rows = make_rows([5, 6, 7], [9, 8], [3, 4, 5], [4, 4])
    rows.next_of(decoder)
    rows.next_of(decoder)  # all rows wait
    assert shapes == [(4, 3)]
    rows.grow(0, 1, 2, 3)
    rows.next_of(decoder)
    rows.grow(0, 1, 3)
    rows.next_of(decoder)
    rows.grow(2)
    rows.next_of(decoder)
    assert shapes[1:] == [(4, 1), (3, 1), (1, 1)]
    rows.grow(0)
    rows.begin(3, [1, 2, 3, 4])
    rows.next_of(decoder)
    assert shapes[4:] == [(1, 1), (1, 4)]


def test_equal_prompts_are_prefilled_once(
    make_model, count_passes, make_rows, full_forward, assert_same_as_full_forward
):
    model = make_model()
    decoder = Decoder(model, num_rows=6, max_length=LENGTH)
    shapes = count_passes(model)
    rows = make_rows([5, 6], [9, 8, 7], [5, 6], [9, 8, 7], [5, 6], [5, 6])
    logits, _ = rows.next_of(decoder)
    assert shapes == [(2, 3)]
    torch.testing.assert_close(
        logits, full_forward(model, rows.input_ids, rows.lengths), rtol=1e-4, atol=1e-4
    )
    for token in (40, 60):  # members of a group grow apart
        rows.grow(0, 1, 2, 3, 4, 5, token=token)
        assert_same_as_full_forward(decoder, model, rows)


def test_a_prompt_and_its_beginning_are_two_prompts(
    make_model, count_passes, make_rows, full_forward
):
    # Behind its length, a row is filled with 0, which is a token like any other.
    model = make_model()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = make_rows([5, 6, 0], [5, 6])
    shapes = count_passes(model)
    logits, _ = rows.next_of(decoder)
    assert shapes == [(2, 3)]
    torch.testing.assert_close(
        logits, full_forward(model, rows.input_ids, rows.lengths), rtol=1e-4, atol=1e-4
    )


def test_rows_of_the_wrong_number_or_length_are_refused(make_model, make_rows):
    decoder = Decoder(make_model(), num_rows=2, max_length=LENGTH)
    for wrong in (make_rows([1]), make_rows([1], [2], length=LENGTH + 1)):
        with pytest.raises(
            ValueError,
            match=r"holds 2 rows of at most 16 tokens, but .* has the shape \(\d, 1[67]\)",
        ):
            wrong.next_of(decoder)


def generated(model, prompt: list[int], new_tokens: int) -> list[int]:
    """Prompt and greedy continuation by transformers, past any end of sequence."""
    tokens = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
    )
    return tokens[0].tolist()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_greedy_decoding_is_that_of_generate(architecture, make_model, make_rows):
    model = make_model(architecture)
    prompts = [[5, 6], [9, 8, 7, 6, 5], [3, 3, 4], [100]]
    decoder = Decoder(model, num_rows=4, max_length=20)
    rows = make_rows(*prompts, length=20)
    for _ in range(12):
        chosen = rows.next_of(decoder)[0].argmax(dim=-1)
        for row in range(4):
            rows.grow(row, token=int(chosen[row]) - row)
    for row, prompt in enumerate(prompts):
        wanted = generated(model, prompt, 12)
        assert rows.input_ids[row, : rows.lengths[row]].tolist() == wanted


def test_adapters_of_peft_take_part(
    make_model, make_rows, full_forward, assert_same_as_full_forward
):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    plain = make_model()
    rows = make_rows([5, 6], [9, 8, 7])
    before = full_forward(plain, rows.input_ids, rows.lengths)
    model = peft.get_peft_model(plain, config).eval()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    after = full_forward(model, rows.input_ids, rows.lengths)
    assert (after - before).abs().max() > 0.1
    assert_same_as_full_forward(decoder, model, rows)
    rows.grow(0, 1)
    assert_same_as_full_forward(decoder, model, rows)


@every_kind
def test_rows_that_grow_by_several_tokens_are_extended(
    architecture, attention, make_model, make_rows, assert_same_as_full_forward
):
    model = make_model(architecture, attention)
    decoder = Decoder(model, num_rows=4, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8, 7, 6, 5], [3, 3, 4], [4])
    assert_same_as_full_forward(decoder, model, rows)
    for step, grown in enumerate(
        [{0: 3, 1: 1, 2: 2}, {0: 1, 1: 1, 3: 4}, {1: 2, 2: 2, 3: 3}, {0: 1, 1: 1, 2: 1, 3: 1}]
    ):
        for row, count in grown.items():
            for token in range(count):
                rows.grow(row, token=20 + 3 * token + step)
        assert_same_as_full_forward(decoder, model, rows)


def test_what_is_read_are_the_new_tokens(make_model, make_rows, count_passes):
    model = make_model()
    decoder = Decoder(model, num_rows=3, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8, 7, 6, 5], [3, 3, 4])
    rows.next_of(decoder)
    shapes = count_passes(model)
    for grown, passes in [
        ({0: 3, 1: 1, 2: 2}, [(1, 1), (2, 3)]),
        ({0: 1, 1: 1}, [(2, 1)]),
        ({2: 4}, [(1, 4)]),
    ]:
        for row, count in grown.items():
            rows.grow(*[row] * count)
        rows.next_of(decoder)
        assert shapes == passes
        shapes.clear()
