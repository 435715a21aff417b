"""The decoder gives the logits of transformers' own forward pass, whatever its rows go through."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, MistralConfig

from textenv.lm.decoder import Decoder
from textenv.lm.parts import check_supported, split

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


class Rows:
    """Token rows that a test grows and rewrites, contiguous from column 0."""

    def __init__(self, *prompts: list[int], length: int = LENGTH):
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


@torch.no_grad()
def full_forward(model, rows: Rows) -> torch.Tensor:
    """Each row's next-token logits: one plain, unpadded pass a row."""
    return torch.stack(
        [
            model(input_ids=ids[:length][None]).logits[0, -1]
            for ids, length in zip(rows.input_ids, rows.lengths, strict=True)
        ]
    )


def assert_same_as_full_forward(decoder: Decoder, model, rows: Rows) -> None:
    logits, _ = rows.next_of(decoder)
    torch.testing.assert_close(logits, full_forward(model, rows), rtol=1e-4, atol=1e-4)


@pytest.fixture
def count_passes():
    """The shapes ``[rows, columns]`` of what a model's body is fed, in order."""

    def count(model) -> list[tuple[int, int]]:
        shapes: list[tuple[int, int]] = []
        model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
            with_kwargs=True,
        )
        return shapes

    return count


@every_kind
def test_rows_that_grow_wait_and_begin_anew_have_the_logits_of_the_full_forward(
    architecture, attention, make_model
):
    model = make_model(architecture, attention)
    decoder = Decoder(model, num_rows=4, max_length=LENGTH)
    rows = Rows([5, 6], [9, 8, 7, 6, 5], [3, 3, 4], [9, 8, 7, 6, 5])
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


@every_kind
def test_the_tiny_models_notice_order_and_position(architecture, attention, make_model):
    # Without this, equality to the full forward would show little.
    model = make_model(architecture, attention)
    logits = full_forward(model, Rows([5, 6, 7, 8], [6, 5, 7, 8], [6, 7, 8], [4, 6, 7, 8]))
    for other in logits[1:]:
        assert (logits[0] - other).abs().max() > 0.1


@every_kind
def test_the_hidden_states_are_those_that_the_head_reads(architecture, attention, make_model):
    model = make_model(architecture, attention)
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = Rows([5, 6], [9, 8, 7])
    rows.next_of(decoder)
    rows.grow(0)
    logits, hidden = rows.next_of(decoder)
    assert hidden.shape == (2, 16) and hidden.dtype == logits.dtype == torch.float32
    _, head = split(model)
    torch.testing.assert_close(head(hidden), logits)


def test_a_row_that_was_rewritten_is_read_anew(make_model):
    model = make_model()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = Rows([5, 6, 7], [9, 8, 7])
    assert_same_as_full_forward(decoder, model, rows)
    rows.input_ids[0, 1] = 66  # as long as before, but another text
    assert_same_as_full_forward(decoder, model, rows)
    rows.lengths[1] = 2  # a token is taken back
    assert_same_as_full_forward(decoder, model, rows)
    rows.begin(0, [5, 66, 7, 8, 9])  # two tokens more at once
    assert_same_as_full_forward(decoder, model, rows)


def test_narrower_observations_than_the_table_are_right(make_model):
    model = make_model()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = Rows([5, 6, 7], [9, 8], length=6)
    for _ in range(3):
        assert_same_as_full_forward(decoder, model, rows)
        rows.grow(0, 1)


def test_what_was_returned_does_not_change_later(make_model):
    decoder = Decoder(make_model(), num_rows=4, max_length=LENGTH)
    rows = Rows([5, 6], [9, 8], [3, 3], [4, 4])
    first = rows.next_of(decoder)
    kept = [tensor.clone() for tensor in first]
    rows.grow(1)
    rows.next_of(decoder)
    rows.begin(2, [8, 8, 8])
    rows.next_of(decoder)
    assert all(torch.equal(now, then) for now, then in zip(first, kept, strict=True))


def test_the_model_is_fed_only_what_the_cache_lacks(make_model, count_passes):
    model = make_model()
    decoder = Decoder(model, num_rows=4, max_length=LENGTH)
    shapes = count_passes(model)
    rows = Rows([5, 6, 7], [9, 8], [3, 4, 5], [4, 4])
    rows.next_of(decoder)
    rows.next_of(decoder)  # all rows wait
    assert shapes == [(4, 3)]
    rows.grow(0, 1, 2, 3)
    rows.next_of(decoder)
    rows.grow(0, 1, 3)  # most: all are stepped, which saves a copy of the cache
    rows.next_of(decoder)
    rows.grow(2)
    rows.next_of(decoder)
    assert shapes[1:] == [(4, 1), (4, 1), (1, 1)]
    rows.grow(0)
    rows.begin(3, [1, 2, 3, 4])
    rows.next_of(decoder)
    assert shapes[4:] == [(1, 1), (1, 4)]


def test_equal_prompts_are_prefilled_once(make_model, count_passes):
    model = make_model()
    decoder = Decoder(model, num_rows=6, max_length=LENGTH)
    shapes = count_passes(model)
    rows = Rows([5, 6], [9, 8, 7], [5, 6], [9, 8, 7], [5, 6], [5, 6])
    logits, _ = rows.next_of(decoder)
    assert shapes == [(2, 3)]
    torch.testing.assert_close(logits, full_forward(model, rows), rtol=1e-4, atol=1e-4)
    for token in (40, 60):  # members of a group grow apart
        rows.grow(0, 1, 2, 3, 4, 5, token=token)
        assert_same_as_full_forward(decoder, model, rows)


def test_a_prompt_and_its_beginning_are_two_prompts(make_model, count_passes):
    # Behind its length, a row is filled with 0, which is a token like any other.
    model = make_model()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = Rows([5, 6, 0], [5, 6])
    shapes = count_passes(model)
    logits, _ = rows.next_of(decoder)
    assert shapes == [(2, 3)]
    torch.testing.assert_close(logits, full_forward(model, rows), rtol=1e-4, atol=1e-4)


class OnAccelerator(torch.Tensor):
    """A tensor that says it lies on an accelerator."""

    is_cuda = True


def test_on_an_accelerator_the_starts_are_believed(make_model, count_passes):
    model = make_model()
    decoder = Decoder(model, num_rows=3, max_length=LENGTH)
    rows = Rows([5, 6], [9, 8, 7], [3])
    shapes = count_passes(model)

    def check(*starts):
        start = torch.tensor([row in starts for row in range(3)])
        believed = rows.input_ids.clone().as_subclass(OnAccelerator)
        logits, _ = decoder.next(believed, rows.lengths.clone(), start)
        torch.testing.assert_close(
            logits.as_subclass(torch.Tensor), full_forward(model, rows), rtol=1e-4, atol=1e-4
        )

    check(0, 1, 2)
    assert shapes[0] == (3, 3)
    rows.grow(0, 1, 2)
    shapes.clear()
    check()
    assert shapes[0] == (3, 1)
    rows.grow(0, 2)  # row 1 waits: it is fed its last token again
    check()
    rows.begin(1, [11, 12, 13, 14, 15])
    rows.grow(0, 2)
    check(1)
    for _ in range(LENGTH):  # nothing grows, and nothing runs out of the table
        check()


def test_rows_of_the_wrong_number_or_length_are_refused(make_model):
    decoder = Decoder(make_model(), num_rows=2, max_length=LENGTH)
    for wrong in (Rows([1]), Rows([1], [2], length=LENGTH + 1)):
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
def test_greedy_decoding_is_that_of_generate(architecture, make_model):
    model = make_model(architecture)
    prompts = [[5, 6], [9, 8, 7, 6, 5], [3, 3, 4], [100]]
    decoder = Decoder(model, num_rows=4, max_length=20)
    rows = Rows(*prompts, length=20)
    for _ in range(12):
        chosen = rows.next_of(decoder)[0].argmax(dim=-1)
        for row in range(4):
            rows.grow(row, token=int(chosen[row]) - row)
    for row, prompt in enumerate(prompts):
        wanted = generated(model, prompt, 12)
        assert rows.input_ids[row, : rows.lengths[row]].tolist() == wanted


def test_greedy_decoding_of_smollm2_is_that_of_generate(smollm2):
    model, tokenizer = smollm2
    prompts = [tokenizer(text).input_ids for text in ("The capital of France is", "One, two,")]
    decoder = Decoder(model, num_rows=2, max_length=14)
    rows = Rows(*prompts, length=14)
    for _ in range(6):
        logits, _ = rows.next_of(decoder)
        for row, token in enumerate(logits.argmax(dim=-1).tolist()):
            rows.grow(row, token=token - row)
    for row, prompt in enumerate(prompts):
        wanted = generated(model, prompt, 6)
        assert rows.input_ids[row, : rows.lengths[row]].tolist() == wanted


def test_adapters_of_peft_take_part(make_model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    plain = make_model()
    rows = Rows([5, 6], [9, 8, 7])
    before = full_forward(plain, rows)
    model = peft.get_peft_model(plain, config).eval()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    assert (full_forward(model, rows) - before).abs().max() > 0.1
    assert_same_as_full_forward(decoder, model, rows)
    rows.grow(0, 1)
    assert_same_as_full_forward(decoder, model, rows)


# --- what the cache does not support ------------------------------------------------------------


def test_a_sliding_window_shorter_than_the_episode_is_refused(make_model):
    model = make_model("gemma2", sliding_window=8)
    Decoder(model, num_rows=1, max_length=8)
    with pytest.raises(
        ValueError,
        match=r"Gemma2ForCausalLM attends through a sliding window of 8 tokens, shorter than an "
        r"episode \(9\): lower max_new_tokens or max_prompt_tokens to at most 8 in all",
    ):
        Decoder(model, num_rows=1, max_length=9)


def test_a_sliding_window_as_long_as_the_episode_is_right_to_its_end(make_model):
    model = make_model("gemma2", sliding_window=8)
    decoder = Decoder(model, num_rows=2, max_length=8)
    rows = Rows([5, 6, 7], [9, 8], length=8)
    for _ in range(5):
        rows.grow(0, 1)
        assert_same_as_full_forward(decoder, model, rows)
    assert rows.lengths[0] == 8


def mistral(window):
    config = MistralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=window,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_model_whose_every_layer_slides_is_refused_too():
    with pytest.raises(ValueError, match=r"MistralForCausalLM attends through a sliding window of"):
        check_supported(mistral(8), 9)
    check_supported(mistral(8), 8)
    check_supported(mistral(None), 64)


def test_a_window_that_no_layer_uses_is_no_obstacle(make_model):
    model = make_model("qwen3")
    model.config.sliding_window = 4
    assert set(model.config.layer_types) == {"full_attention"}
    check_supported(model, 9)


def test_layers_that_are_not_attention_are_refused_by_name(make_model):
    model = make_model("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(
        ValueError, match=r"Qwen3ForCausalLM has layers of the types \['linear_attention'\]; only"
    ):
        Decoder(model, num_rows=1, max_length=LENGTH)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_a_context_shorter_than_the_episode_is_refused(architecture, make_model):
    model = make_model(architecture)
    Decoder(model, num_rows=1, max_length=64)
    with pytest.raises(
        ValueError,
        match=r"Episodes may take 65 tokens .*but the context of \w+ForCausalLM is 64: lower"
        if architecture != "gpt2"
        else r"Episodes may take 65 tokens .*but the context of GPT2LMHeadModel is 64: lower",
    ):
        Decoder(model, num_rows=1, max_length=65)


def test_an_attention_without_explicit_masks_is_refused(make_model):
    model = make_model()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(
        ValueError,
        match=r"LlamaForCausalLM has attn_implementation='flex_attention', .* 'sdpa' or 'eager'",
    ):
        Decoder(model, num_rows=1, max_length=LENGTH)


def test_a_head_that_is_more_than_known_is_refused(make_model):
    model = make_model()

    def double(module, args, output):
        output.logits = output.logits * 2
        return output

    model.register_forward_hook(double)
    with pytest.raises(ValueError, match=r"The logits of LlamaForCausalLM are more than a linear"):
        Decoder(model, num_rows=1, max_length=LENGTH)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(CohereConfig, {"logit_scale": 0.25}), (GraniteConfig, {"logits_scaling": 4.0})],
    ids=["cohere", "granite"],
)
def test_logits_are_scaled_as_the_architecture_scales_them(kind, changes):
    config = kind(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **changes,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = Rows([5, 6], [9, 8, 7])
    _, head = split(model)
    assert head.scale == 0.25
    assert_same_as_full_forward(decoder, model, rows)
    rows.grow(1, token=20)
    assert_same_as_full_forward(decoder, model, rows)


def test_a_frozen_head_keeps_the_weights_of_now(make_model):
    model = make_model("gemma2")
    _, head = split(model)
    hidden = torch.randn(3, 16)
    frozen, before = head.frozen(), head(hidden).detach()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    torch.testing.assert_close(frozen(hidden), before)
    assert not torch.allclose(head(hidden), before)
    assert not frozen(hidden).requires_grad and head(hidden).requires_grad
