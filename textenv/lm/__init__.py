"""The code that uses transformers: loading, decoding, scoring."""

from textenv.lm.loading import load_model, load_tokenizer

__all__ = ["load_model", "load_tokenizer"]
