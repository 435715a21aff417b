"""Sequence-classification models and their tokenizers, for rewards that are models."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification

from textenv.arguments import first_line
from textenv.lm.adapters import merged
from textenv.lm.loading import (
    check_names_no_code,
    load_model,
    load_tokenizer,
    reading,
    without_bars,
)
from textenv.lm.sources import find

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_classifier(
    source: str, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence-classification model on a device (None: the CPU), and its own tokenizer.

    ``source`` is a folder that `save_pretrained` wrote, or a hub id. A ValueError says that there
    is no such model, no weights for its classification head, or no tokenizer.
    """
    refusal = (
        f"reward={source!r} cannot be loaded as a sequence-classification model ({{why}}): check "
        "the folder or the hub id."
    )
    with reading(refusal):
        name, _ = find(source)
    check_names_no_code(name)
    # Only safetensors weights and no remote code: no downloaded code is executed.
    with reading(refusal), without_bars():
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name, output_loading_info=True, use_safetensors=True, trust_remote_code=False
        )
    with reading(
        f"reward={source!r} has no tokenizer beside the model, or none that can be read: save the "
        "model's own one there, with tokenizer.save_pretrained."
    ):
        tokenizer = load_tokenizer(source)
    # transformers sets missing weights to random numbers, and the scores would look valid.
    if loading["missing_keys"]:
        raise ValueError(
            f"reward={source!r} lacks the weights {sorted(loading['missing_keys'])}: "
            "choose a model that was trained as a sequence classifier."
        )
    return model.to(device), tokenizer


def new_classifier(
    source: Any, seed: int, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier with one label on the body of a causal language model, in float32,
    which pads as its tokenizer does; and this tokenizer.

    Adapters of the source (`textenv.lm.sources`) are merged into it. ``seed`` is that of the new
    head.
    """
    tokenizer = load_tokenizer(source)
    causal: Any = load_model(source, dtype=torch.float32)
    if hasattr(causal, "merge_and_unload"):
        causal = merged(causal)
    config = copy.deepcopy(causal.config)
    config.num_labels = 1
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise ValueError(
            f"model={str(source)!r}: transformers has no sequence classifier for a "
            f"{type(causal).__name__} ({first_line(error)})."
        ) from error
    model.base_model.load_state_dict(causal.base_model.state_dict())
    return model.to(device), tokenizer


def load_classifier_tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer from the source of a live model."""
    fix = "pass ClassifierReward(model, tokenizer) instead."
    source = model.config.name_or_path
    if not source:
        raise ValueError(f"reward is a {type(model).__name__} whose tokenizer is unknown: {fix}")
    try:
        return load_tokenizer(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"reward is a {type(model).__name__} from {source!r}, where no tokenizer can be "
            f"loaded ({error}): {fix}"
        ) from error
