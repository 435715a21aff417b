"""Whether a model and a tokenizer belong together.

A model reads and writes token ids. With another model's tokenizer each id means another piece of
text. This raises no error by itself, but the text and the KL have no meaning.
"""

import weakref
from typing import Any

from textenv.arguments import as_path
from textenv.lm.loading import LOADED_FROM, load_tokenizer
from textenv.lm.parts import unwrapped

# Tokenizers by model, since reading one takes seconds. Not stored in the models, which are copied.
_known: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def vocabulary_size(tokenizer: Any) -> int:
    """The largest id of a tokenizer plus one; its length is less where the ids have gaps."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def own_tokenizer(model: Any) -> Any | None:
    """The tokenizer at the source of a live model, plain or with adapters; None if unknown."""
    inner = unwrapped(model)
    if inner not in _known:
        config = getattr(inner, "config", None)  # a model of another kind has none
        # A folder of adapters may hold no tokenizer; that of its base model is the same.
        sources = getattr(inner, LOADED_FROM, None), getattr(config, "name_or_path", None)
        found = (_local_tokenizer(source) for source in sources if source)
        _known[inner] = next((tokenizer for tokenizer in found if tokenizer is not None), None)
    return _known[inner]


def _local_tokenizer(source: str) -> Any | None:
    """Only what is on this machine: a check must not download anything."""
    short_name = source in ("bundled", "smollm2") or source.endswith(".gguf")
    if not (short_name or as_path(source).is_dir()):
        return None
    try:
        return load_tokenizer(source)
    except (OSError, ValueError, ModuleNotFoundError):
        return None


def check_same_tokenizer(tokenizer: Any, model: Any, whose: str) -> None:
    """Raise a ValueError for a live model that was made for another tokenizer than the
    environment's.

    Tokens that were added to either tokenizer afterwards may differ; a model whose tokenizer is
    unknown is accepted. ``whose``: the words with which the message begins, such as "The
    reference".
    """
    own = own_tokenizer(model)
    if own is None or own is tokenizer or _source(own) == _source(tokenizer) is not None:
        return
    ours, theirs = tokenizer.get_vocab(), own.get_vocab()
    added = {*tokenizer.get_added_vocab(), *own.get_added_vocab()}
    differing = [
        token
        for token, number in ours.items()
        if token not in added and theirs.get(token) != number
    ]
    if differing:
        token = min(differing, key=ours.__getitem__)
        where = f"id {theirs[token]}" if token in theirs else "no id at all"
        raise ValueError(
            f"{whose} was made for another tokenizer than the environment's: {token!r} is id "
            f"{ours[token]} in the environment and has {where} there ({len(differing)} of "
            f"{len(ours)} tokens differ). Give the environment tokenizer={_name(own)!r}, or take a "
            "model of the environment's tokenizer."
        )


def _source(tokenizer: Any) -> str | None:
    return getattr(tokenizer, LOADED_FROM, None)


def _name(tokenizer: Any) -> str:
    return _source(tokenizer) or getattr(tokenizer, "name_or_path", "") or "the model's own"
