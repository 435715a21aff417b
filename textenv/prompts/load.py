"""Where episodes begin: prompts from a list, a file or a dataset."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from textenv.arguments import as_path
from textenv.prompts.chat import checked_messages, render_conversations
from textenv.prompts.files import read_rows

BUNDLED_PROMPTS = Path(__file__).parents[1] / "lm" / "bundled" / "prompts.txt"
BATCH = 1000  # prompts that are tokenised at once; more are not faster, but take more memory


@dataclass(frozen=True)
class Prompt:
    """The start of an episode: a text, or a conversation, which the tokenizer's chat template
    renders as a text later."""

    text: str  # as the model reads it; `""` where there are messages
    data: Mapping[str, Any] = field(default_factory=dict)  # the other columns of the row
    messages: tuple[Mapping[str, Any], ...] | None = None  # `{"role": ..., "content": ...}` each


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt as the environment uses it: rendered, and as token ids, int64 `[P]`, P > 0.

    The `data` of a conversation also has its messages, as the column `"prompt"`.
    """

    text: str
    ids: np.ndarray
    data: Mapping[str, Any]


def encode_prompts(
    prompts: Sequence[Prompt | EncodedPrompt],
    tokenizer: Any,
    max_prompt_tokens: int | None = None,
    chat: bool = False,
) -> list[EncodedPrompt]:
    """Tokenise prompts in their order, conversations with the tokenizer's chat template; keep
    encoded prompts. The arguments are those of `textenv.task.TextTask`."""
    encoded: list[EncodedPrompt] = []
    for begin in range(0, len(prompts), BATCH):
        batch = dict(enumerate(prompts[begin : begin + BATCH], begin))
        raw = {i: prompt for i, prompt in batch.items() if isinstance(prompt, Prompt)}
        done = {i: prompt for i, prompt in batch.items() if isinstance(prompt, EncodedPrompt)}
        done |= _encode_batch(raw, tokenizer, max_prompt_tokens, chat)
        encoded += [done[number] for number in batch]
    return encoded


def _encode_batch(
    prompts: Mapping[int, Prompt], tokenizer: Any, max_prompt_tokens: int | None, chat: bool
) -> dict[int, EncodedPrompt]:
    conversations: dict[int, Sequence[Mapping[str, Any]]] = {}
    plain: dict[int, str] = {}
    for number, prompt in prompts.items():
        if prompt.messages:
            conversations[number] = prompt.messages
        elif chat:
            conversations[number] = [{"role": "user", "content": prompt.text}]
        else:
            plain[number] = prompt.text
    rendered = render_conversations(conversations, tokenizer)
    # The template writes the special tokens itself.
    ids = _tokenise(plain, tokenizer, True) | _tokenise(rendered, tokenizer, False)
    texts = plain | rendered
    encoded = {}
    for number, prompt in prompts.items():
        _check_length(number, texts[number], len(ids[number]), max_prompt_tokens)
        data = prompt.data
        if number in conversations:
            data = {**data, "prompt": list(conversations[number])}
        array = np.array(ids[number], dtype=np.int64)
        encoded[number] = EncodedPrompt(texts[number], array, data)
    return encoded


def _tokenise(texts: Mapping[int, str], tokenizer: Any, special: bool) -> dict[int, list[int]]:
    if not texts:
        return {}
    ids = tokenizer(list(texts.values()), add_special_tokens=special)["input_ids"]
    return dict(zip(texts, ids, strict=True))


def _check_length(number: int, text: str, length: int, limit: int | None) -> None:
    if length == 0:
        raise ValueError(
            f"prompts[{number}] is {text!r}, which has no token: this tokenizer has no "
            "beginning-of-sequence token, so a prompt must have some text."
        )
    if limit is not None and length > limit:
        raise ValueError(
            f"prompts[{number}] has {length} tokens, more than max_prompt_tokens="
            f"{limit}: shorten it ({text[:60]!r}...) or raise the limit."
        )


def load_prompts(source: str | os.PathLike[str] | Iterable[Any]) -> list[Prompt | EncodedPrompt]:
    """Read prompts, at least one, from a list, a file or a dataset, in their order.

    Args:
        source: One of

            - `"bundled"`: the prompts that come with the bundled model;
            - a path to a UTF-8 text file, `.txt` or without an ending, one prompt per line, blank
              lines skipped;
            - a path to a `.jsonl` or `.json` file, one row per line, blank lines skipped;
            - a path to a `.csv` or `.parquet` file; a cell of CSV holds messages as JSON;
            - an iterable of strings, conversations, rows or `Prompt`s; a `datasets.Dataset` is one.

            A conversation is a list of `{"role": ..., "content": ...}` messages. A row is a
            mapping with a column `"prompt"`, a text or a conversation, or else a column
            `"messages"`, a conversation. The other columns become `Prompt.data`.
    """
    if isinstance(source, (str, os.PathLike)):
        rows = read_rows(BUNDLED_PROMPTS if source == "bundled" else as_path(source))
        name = f"prompts={str(source)!r}"
    else:
        rows = [(f"prompts[{i}]", row) for i, row in enumerate(_checked_iterable(source))]
        name = "prompts"
    if not rows:
        raise ValueError(f"{name} is empty: give at least one prompt.")
    return [_prompt_from_row(row, where) for where, row in rows]


def _checked_iterable(source: Any) -> Iterable[Any]:
    # Iterating over these yields the names of columns or splits, which would look like prompts.
    if isinstance(source, Mapping) or hasattr(source, "iterrows"):
        raise ValueError(
            f"prompts is a {type(source).__name__}, which is not a list of rows: pass one "
            "split of a dataset, or a table's rows as mappings with a column 'prompt'."
        )
    if isinstance(source, set | frozenset):
        raise ValueError(
            "prompts is a set, whose order changes from one process to the next, and with it "
            "every seeded run: pass sorted(prompts)."
        )
    if not isinstance(source, Iterable):
        raise ValueError(
            f"prompts={source!r} cannot be read: pass 'bundled', a path, a list of strings or "
            "a dataset with a column 'prompt'."
        )
    return source


def _prompt_from_row(row: Any, where: str) -> Prompt | EncodedPrompt:
    if isinstance(row, Prompt | EncodedPrompt):
        return row
    if isinstance(row, str):
        return Prompt(row)
    if isinstance(row, list | tuple):
        return Prompt("", {}, checked_messages(row, where))
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where} is {row!r}, a {type(row).__name__}: "
            "give a string, or a mapping with a column 'prompt'."
        )
    # A data set of rows of both kinds has None in the column that a row does not use.
    by_messages = row.get("prompt") is None and row.get("messages") is not None
    column = "messages" if by_messages else "prompt"
    if column not in row:
        fix = "rename the column that holds the prompt."
        if {"role", "content"} <= row.keys():
            fix = "this is one message, so put the list of messages into a list of prompts."
        raise ValueError(f"{where} has no column 'prompt', only {sorted(map(str, row))}: {fix}")
    data = {name: value for name, value in row.items() if name not in ("prompt", column)}
    if isinstance(row[column], str) and column == "prompt":
        return Prompt(row[column], data)
    return Prompt("", data, checked_messages(row[column], where, column))
