"""Sequence-classification models and their tokenizers, for rewards that are models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForSequenceClassification

from textenv.arguments import first_line
from textenv.lm.loading import UNREADABLE, load_tokenizer
from textenv.lm.sources import find

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_classifier(
    source: str, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a sequence-classification model with its own tokenizer.

    Args:
        source: A folder that `save_pretrained` wrote, or a hub id such as
            `"distilbert/distilbert-base-uncased-finetuned-sst-2-english"`.
        device: The device of the model; None means the CPU.

    Returns:
        The model and its tokenizer.

    Raises:
        ValueError: If there is no such model, or it has no weights for a classification head.
    """
    try:
        name, _ = find(source)
        # Only safetensors weights and no remote code: no downloaded code is executed.
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name, output_loading_info=True, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = load_tokenizer(source)
    except UNREADABLE as error:
        raise ValueError(
            f"reward={source!r} cannot be loaded as a sequence-classification model "
            f"({first_line(error)}): check the folder or the hub id."
        ) from error
    # transformers sets missing weights to random numbers, and the scores would look valid.
    if loading["missing_keys"]:
        raise ValueError(
            f"reward={source!r} lacks the weights {sorted(loading['missing_keys'])}: "
            "choose a model that was trained as a sequence classifier."
        )
    return model.to(device), tokenizer


def load_classifier_tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Load the tokenizer from the source of a live model.

    Args:
        model: A transformers model.

    Returns:
        The tokenizer that was saved with it.

    Raises:
        ValueError: If the source of the model is unknown, or no tokenizer is there.
    """
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
