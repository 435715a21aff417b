"""Where episodes begin: prompts from a list, a file or a dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BUNDLED_PROMPTS = Path(__file__).parent / "lm" / "bundled" / "prompts.txt"


@dataclass(frozen=True)
class Prompt:
    """The start of an episode: a text, or a conversation that is rendered as a text later.

    Attributes:
        text: The prompt as the model reads it; `""` where `messages` is given.
        data: The other columns of the prompt's row; rewards find them in `episode.data`.
        messages: A conversation, `{"role": ..., "content": ...}` each, or None for a plain text.
            The environment renders it with the tokenizer's chat template.
    """

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt as the environment uses it: rendered, and as token ids, int64 `[P]`, P > 0."""

    text: str
    ids: np.ndarray
    data: Mapping[str, Any]


def encode_prompts(
    prompts: Sequence[Prompt | EncodedPrompt], tokenizer: Any, max_prompt_tokens: int | None = None
) -> list[EncodedPrompt]:
    """Tokenise prompts, conversations with the tokenizer's chat template; keep encoded prompts.

    Raises:
        ValueError: If a prompt has no token, or more than `max_prompt_tokens`.
    """
    encoded = []
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, EncodedPrompt):
            encoded.append(prompt)
            continue
        text = prompt.text
        if prompt.messages is not None:
            # The template writes the special tokens itself.
            text = tokenizer.apply_chat_template(
                list(prompt.messages), add_generation_prompt=True, tokenize=False
            )
        ids = tokenizer(text, add_special_tokens=prompt.messages is None)["input_ids"]
        if not ids:
            raise ValueError(
                f"prompts[{number}] is {text!r}, which has no token: this tokenizer has no "
                "beginning-of-sequence token, so a prompt must have some text."
            )
        if max_prompt_tokens is not None and len(ids) > max_prompt_tokens:
            raise ValueError(
                f"prompts[{number}] has {len(ids)} tokens, more than max_prompt_tokens="
                f"{max_prompt_tokens}: shorten it ({text[:60]!r}...) or raise the limit."
            )
        encoded.append(EncodedPrompt(text, np.array(ids, dtype=np.int64), prompt.data))
    return encoded


def load_prompts(source: str | os.PathLike[str] | Iterable[Any]) -> list[Prompt | EncodedPrompt]:
    """Read prompts from a list, a file or a dataset, in their order.

    Args:
        source: One of

            - `"bundled"`: the prompts that come with the bundled model;
            - a path to a UTF-8 text file, one prompt per line, blank lines skipped;
            - a path to a `.jsonl` file, one row per line, blank lines skipped;
            - an iterable of strings, rows or `Prompt`s; a `datasets.Dataset` is one.

            A row is a mapping with a column `"prompt"`: a text, or a list of
            `{"role": ..., "content": ...}` messages. The other columns become `Prompt.data`.

    Returns:
        At least one prompt.

    Raises:
        ValueError: If the file does not exist, has no prompt, or a row is not a prompt.
    """
    if isinstance(source, (str, os.PathLike)):
        path = BUNDLED_PROMPTS if source == "bundled" else Path(source)
        prompts = _read_jsonl(path) if path.suffix == ".jsonl" else _read_text(path)
        name = f"prompts={str(source)!r}"
    else:
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
        prompts = [_prompt_from_row(row, f"prompts[{i}]") for i, row in enumerate(source)]
        name = "prompts"
    if not prompts:
        raise ValueError(f"{name} is empty: give at least one prompt.")
    return prompts


def _read_text(path: Path) -> list[Prompt | EncodedPrompt]:
    # Spaces at the ends of a line are kept: they change how a prompt is tokenised.
    return [Prompt(line) for _, line in _numbered_lines(path)]


def _read_jsonl(path: Path) -> list[Prompt | EncodedPrompt]:
    prompts: list[Prompt | EncodedPrompt] = []
    for number, line in _numbered_lines(path):
        where = f"prompts={str(path)!r}, line {number},"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where} is not JSON ({error}): write one object per line, "
                'such as {"prompt": "..."}.'
            ) from error
        if not isinstance(row, Mapping):
            raise ValueError(
                f"{where} is {row!r}, which is not an object: write one object per line, "
                'such as {"prompt": "..."}.'
            )
        prompts.append(_prompt_from_row(row, where))
    return prompts


def _numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, without their line ends, numbered from 1."""
    if not path.is_file():
        raise ValueError(
            f"prompts={str(path)!r} is not a file: check the path, "
            "or pass a list of strings to give the prompts themselves."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # "-sig" drops the byte order mark of Windows
    except UnicodeDecodeError as error:
        raise ValueError(
            f"prompts={str(path)!r} is not UTF-8 text ({error}): save it as UTF-8."
        ) from error
    # Not `splitlines`, which also breaks at form feeds and at Unicode separators.
    return [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _prompt_from_row(row: Any, where: str) -> Prompt | EncodedPrompt:
    if isinstance(row, Prompt | EncodedPrompt):
        return row
    if isinstance(row, str):
        return Prompt(row)
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where} is {row!r}, a {type(row).__name__}: "
            "give a string, or a mapping with a column 'prompt'."
        )
    if "prompt" not in row:
        raise ValueError(
            f"{where} has no column 'prompt', only {sorted(map(str, row))}: "
            "rename the column that holds the prompt."
        )
    prompt = row["prompt"]
    data = {column: value for column, value in row.items() if column != "prompt"}
    if isinstance(prompt, str):
        return Prompt(prompt, data)
    return Prompt("", data, _checked_messages(prompt, where))


def _checked_messages(messages: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    def is_message(message: Any) -> bool:
        return isinstance(message, Mapping) and all(
            isinstance(message.get(key), str) for key in ("role", "content")
        )

    if isinstance(messages, (list, tuple)) and messages and all(map(is_message, messages)):
        return tuple(dict(message) for message in messages)
    raise ValueError(
        f"{where} has the prompt {messages!r}: give a string, or a list of messages, "
        "each with the strings 'role' and 'content'."
    )
