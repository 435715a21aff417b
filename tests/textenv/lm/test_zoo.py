"""Every kind of model that transformers maps is served rightly or refused, and none is wrong."""

from __future__ import annotations

import pytest
import torch
import transformers
import zoo
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertGenerationConfig,
    BertGenerationDecoder,
    BloomConfig,
    FalconConfig,
    GPTNeoConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    OPTConfig,
    Phi3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from textenv.lm.support import check_supported

SHAPE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def randomized(model):
    """The model with large random weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        zoo.randomize(model)
    return model.eval()


def from_config(config):
    return randomized(AutoModelForCausalLM.from_config(config))


def assert_refused(model, words: str) -> None:
    outcome = zoo.try_model(model)
    assert outcome.verdict == "refused" and words in outcome.reason, outcome


def assert_served(model) -> None:
    outcome = zoo.try_model(model)
    assert outcome.verdict == "served", outcome


# --- every kind ---------------------------------------------------------------------------------


def test_every_kind_is_listed_once():
    assert not (zoo.SERVED & zoo.REFUSED or (zoo.SERVED | zoo.REFUSED) & zoo.NOT_BUILT.keys())
    if transformers.__version__ != zoo.VERSION:
        pytest.skip(f"listed for transformers {zoo.VERSION}")
    assert zoo.SERVED | zoo.REFUSED | zoo.NOT_BUILT.keys() == set(zoo.kinds())


@pytest.mark.slow
@pytest.mark.parametrize("kind", zoo.kinds())
def test_a_kind_is_served_rightly_or_refused(kind):
    outcome = zoo.try_kind(kind)
    assert outcome.verdict not in ("wrong", "crashed"), outcome
    if outcome.verdict == "not built":
        assert kind in zoo.NOT_BUILT or transformers.__version__ != zoo.VERSION, outcome
        pytest.skip(zoo.NOT_BUILT.get(kind, outcome.reason))
    if kind in zoo.SERVED | zoo.REFUSED:  # a newer transformers maps more kinds
        listed = "served" if kind in zoo.SERVED else "refused"
        assert outcome.verdict == listed, f"{kind} is listed as {listed}, but is now: {outcome}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(zoo.SERVED & set(zoo.kinds())))
def test_a_kind_whose_windows_are_shorter_than_the_rows_is_not_wrong(kind):
    outcome = zoo.try_kind(kind, window=7)
    assert outcome.verdict in ("served", "refused"), outcome


# --- special settings ---------------------------------------------------------------------------


def gpt_neo(window):
    """One layer of global and one of local attention."""
    return GPTNeoConfig(
        vocab_size=40,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        window_size=window,
        attention_types=[[["global", "local"], 1]],
    )


def phi3(original):
    """Rows longer than ``original`` have other rotary frequencies, at all their positions."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": original,
    }
    return Phi3Config(
        **SHAPE,
        num_key_value_heads=1,
        intermediate_size=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        max_position_embeddings=64,
        original_max_position_embeddings=original,
        rope_parameters=rope,
    )


@pytest.mark.parametrize("config", [gpt_neo, phi3])
@pytest.mark.parametrize("length", [5, 6, 7, 9])
def test_rows_that_pass_a_length_at_which_the_model_changes_are_refused(config, length):
    assert_refused(from_config(config(length)), "is not supported: token by token")


@pytest.mark.parametrize("config", [gpt_neo, phi3])
def test_rows_that_end_at_this_length_are_served(config):
    assert_served(from_config(config(zoo.LENGTH)))


def test_a_new_model_is_tried_as_strictly_as_a_trained_one():
    """Its weights are so small that wrong positions change its log-probabilities by 0.0002 nats."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        right, wrong = (AutoModelForCausalLM.from_config(phi3(n)).eval() for n in (64, 7))
    check_supported(right, zoo.LENGTH)
    with pytest.raises(ValueError, match=r"Phi3ForCausalLM is not supported: .* differ by 0\.000"):
        check_supported(wrong, zoo.LENGTH)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2), "BloomForCausalLM"),
        (FalconConfig(**SHAPE, alibi=True), "FalconForCausalLM has alibi=True, position biases"),
    ],
    ids=["bloom", "falcon"],
)
def test_position_biases_are_refused(config, words):
    assert_refused(from_config(config), words)


def test_hidden_states_may_be_smaller_than_the_layers():
    assert_served(
        from_config(
            OPTConfig(**SHAPE, ffn_dim=32, max_position_embeddings=64, word_embed_proj_dim=8)
        )
    )


def test_a_body_that_is_not_causal_is_refused():
    config = BertGenerationConfig(**SHAPE, intermediate_size=32, is_decoder=False)
    assert_refused(randomized(BertGenerationDecoder(config)), "is not supported: token by token")


def test_a_context_without_a_limit_is_no_short_one():
    model = zoo.build("xlnet")
    assert model.config.max_position_embeddings == -1
    assert_refused(model, "XLNetLMHeadModel cannot be driven by the row cache")


def t5():
    return T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )


def bart():
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"vocab_size": 40, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    return BartForConditionalGeneration(BartConfig(**widths, **heads, **layers))


@pytest.mark.parametrize("make", [t5, bart])
def test_a_model_with_an_encoder_is_refused(make):
    assert_refused(make(), "ForConditionalGeneration has an encoder: use a causal language model")


def test_cross_attention_to_images_is_skipped_where_there_is_none():
    config = zoo.small_config(MllamaConfig)
    config.text_config.cross_attention_layers = [1]
    assert_served(randomized(MllamaForConditionalGeneration(config)))


@pytest.mark.parametrize(
    "kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"]
)
def test_virtual_tokens_of_peft_are_refused(kind):
    peft = pytest.importorskip("peft")
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(zoo.build("llama"), config).eval()
    assert_refused(model, f"LlamaForCausalLM with {kind} learns virtual tokens")


@pytest.mark.parametrize("kind", ["LoraConfig", "IA3Config"])
def test_adapters_of_peft_in_the_layers_are_served(kind):
    peft = pytest.importorskip("peft")
    where = {"feedforward_modules": []} if kind == "IA3Config" else {}
    config = getattr(peft, kind)(target_modules=["k_proj", "v_proj"], **where)
    assert_served(randomized(peft.get_peft_model(zoo.build("llama"), config)))
