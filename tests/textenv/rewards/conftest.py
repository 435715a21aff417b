"""Episodes to score, and a tiny classifier with a tokenizer of whole words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from textenv.episode import Episode

WORDS = ["[PAD]", "[UNK]", "[CLS]", "good", "bad", "sea", "sky", "write", "about", "it"]


@pytest.fixture
def make_episodes():
    """Episodes with the given responses; a response has as many tokens as words, and a stop."""

    def make(*responses: str, prompt: str = "Write: ") -> list[Episode]:
        return [
            Episode(
                prompt=prompt,
                response=response,
                prompt_ids=np.arange(2),
                response_ids=np.arange(len(response.split()) + 1),
                finish_reason="stop",
            )
            for response in responses
        ]

    return make


@pytest.fixture
def episodes(make_episodes):
    """Three episodes of words that the classifier knows."""
    return make_episodes("good", "bad sky it", "", prompt="write sea ")


@pytest.fixture
def tokenizer():
    """One token a word, with the ids 0 to 9 of "[PAD]", "[UNK]", "[CLS]", "good", "bad", ..."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A", None, [("[CLS]", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


@pytest.fixture(scope="session")
def make_bert():
    """``make_bert(labels)``: a classifier that reads eight tokens at most."""

    def make(labels=("NEGATIVE", "POSITIVE", "NEUTRAL"), **config):
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=len(WORDS),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=8,
                initializer_range=0.2,  # Not so small, or so large, that all texts score alike.
                id2label=dict(enumerate(labels)),
                **config,
            )
        ).eval()

    return make
