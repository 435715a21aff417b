"""Body and head make up a model's logits; what the row cache does not support is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, MistralConfig

from textenv.lm.decoder import Decoder
from textenv.lm.parts import split
from textenv.lm.support import check_supported

LENGTH = 16
TINY = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def test_a_sliding_window_shorter_than_the_episode_is_refused(make_model):
    model = make_model("gemma2", sliding_window=8)
    check_supported(model, 8)
    with pytest.raises(
        ValueError,
        match=r"Gemma2ForCausalLM attends through a sliding window of 8 tokens, shorter than an "
        r"episode \(9\): lower max_new_tokens or max_prompt_tokens to at most 8 in all",
    ):
        check_supported(model, 9)


def test_a_sliding_window_as_long_as_the_episode_is_right_to_its_end(
    make_model, make_rows, assert_same_as_full_forward
):
    model = make_model("gemma2", sliding_window=8)
    decoder = Decoder(model, num_rows=2, max_length=8)
    rows = make_rows([5, 6, 7], [9, 8], length=8)
    for _ in range(5):
        rows.grow(0, 1)
        assert_same_as_full_forward(decoder, model, rows)
    assert rows.lengths[0] == 8


def mistral(window):
    config = MistralConfig(**TINY, sliding_window=window)
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
        check_supported(model, LENGTH)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_a_context_shorter_than_the_episode_is_refused(architecture, make_model):
    model = make_model(architecture)
    check_supported(model, 64)
    with pytest.raises(
        ValueError,
        match=r"Episodes may take 65 tokens .*but the context of \w+ForCausalLM is 64: lower"
        if architecture != "gpt2"
        else r"Episodes may take 65 tokens .*but the context of GPT2LMHeadModel is 64: lower",
    ):
        check_supported(model, 65)


def test_an_attention_without_explicit_masks_is_refused(make_model):
    model = make_model()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(
        ValueError,
        match=r"LlamaForCausalLM has attn_implementation='flex_attention', .* 'sdpa' or 'eager'",
    ):
        check_supported(model, LENGTH)


def test_a_head_that_is_more_than_known_is_refused(make_model):
    model = make_model()

    def double(module, args, output):
        output.logits = output.logits * 2
        return output

    model.register_forward_hook(double)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM is not supported: .* differ by"):
        check_supported(model, LENGTH)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(CohereConfig, {"logit_scale": 0.25}), (GraniteConfig, {"logits_scaling": 4.0})],
    ids=["cohere", "granite"],
)
def test_logits_are_scaled_as_the_architecture_scales_them(
    kind, changes, make_rows, assert_same_as_full_forward
):
    config = kind(
        **TINY,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **changes,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8, 7])
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
