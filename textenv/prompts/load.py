"""Where episodes begin: prompts from a list, a file or a dataset."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from textenv.arguments import brief
from textenv.episode import ReadOnlyData
from textenv.prompts.chat import (
    Rendered,
    checked_messages,
    checked_text,
    render_conversation,
    text_or_messages,
    without_template,
)
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

    @property
    def is_conversation(self) -> bool:
        """Whether a chat template has rendered it."""
        return isinstance(self.text, Rendered)


def with_tools(prompt: Prompt | EncodedPrompt, schemas: list[Any]) -> Prompt | EncodedPrompt:
    """A prompt whose chat template shows tools, unless its row names some of its own."""
    if isinstance(prompt, EncodedPrompt) or "tools" in prompt.data:
        return prompt
    return replace(prompt, data={**prompt.data, "tools": schemas})


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
    rendered: dict[int, str] = {}
    for number, prompt in prompts.items():
        if not (prompt.messages or chat):
            plain[number] = prompt.text
            continue
        if not prompt.messages and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"{without_template(tokenizer)}, which prompts[{number}], a text that chat=True "
                "makes a message, needs: take the tokenizer of a chat model, such as 'smollm2', "
                "set tokenizer.chat_template, or pass chat=False."
            )
        if not prompt.messages:
            _check_not_rendered(prompt.text, tokenizer, number)
        as_messages = prompt.messages or [{"role": "user", "content": prompt.text}]
        conversations[number] = as_messages
        rendered[number] = render_conversation(
            as_messages, tokenizer, f"prompts[{number}]", prompt.data
        )
    texts = plain | rendered
    ids = _tokenise(texts, tokenizer)
    # A template writes the special tokens itself, and who rendered a text with it, too.
    begin = _special_beginning(tokenizer) if plain else []
    for number in plain:
        if ids[number][: len(begin)] != begin:
            ids[number] = begin + ids[number]
    encoded = {}
    for number, prompt in prompts.items():
        _check_length(number, texts[number], len(ids[number]), max_prompt_tokens)
        data = prompt.data
        if number in conversations:
            data = {**data, "prompt": list(conversations[number])}
        array = np.array(ids[number], dtype=np.int64)
        encoded[number] = EncodedPrompt(texts[number], array, ReadOnlyData(data))
    return encoded


def _check_not_rendered(text: str, tokenizer: Any, number: int) -> None:
    """A text that a template has made already would become a message of a user about it."""
    for token in tokenizer.all_special_tokens:
        if len(token) > 1 and text.startswith(token):
            raise ValueError(
                f"prompts[{number}] begins with {token!r}, as what a chat template has made: pass "
                "chat=False, or give its messages."
            )


def _tokenise(texts: Mapping[int, str], tokenizer: Any) -> dict[int, list[int]]:
    """Without special tokens, but for those that are written in a text."""
    if not texts:
        return {}
    ids = tokenizer(list(texts.values()), add_special_tokens=False)["input_ids"]
    return {number: list(row) for number, row in zip(texts, ids, strict=True)}


def _special_beginning(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before every text. What it puts behind one, such as the end
    of sequence, would stop the response before it begins."""
    whole = list(tokenizer("a")["input_ids"])
    text = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    if text:
        starts = range(len(whole) - len(text) + 1)
        return whole[: next((i for i in starts if whole[i : i + len(text)] == text), 0)]
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)  # it has no token for this letter
    return [token for token in whole if token not in ends]


def _check_length(number: int, text: str, length: int, limit: int | None) -> None:
    if length == 0:
        raise ValueError(
            f"prompts[{number}] is {brief(text)}, which has no token: this tokenizer has no "
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
            - a path to a `.jsonl` or `.json` file, one row per line, blank lines skipped, or one
              array of rows;
            - a path to a `.csv` or `.parquet` file;
            - a path to one of these that gzip has compressed, such as `prompts.jsonl.gz`;
            - a table of pandas, polars or pyarrow;
            - an iterable of strings, conversations, rows or `Prompt`s; a `datasets.Dataset` is one.

            A conversation is a list of `{"role": ..., "content": ...}` messages; a cell of a table
            may hold it as JSON. A row is a mapping with a column `"prompt"`, a text or a
            conversation, or else a column `"messages"`, a conversation. The other columns become
            `Prompt.data`; `"tools"` and `"chat_template_kwargs"` are also passed to the template.
    """
    if isinstance(source, str) and source == "bundled":
        source = BUNDLED_PROMPTS
    return [_prompt_from_row(row, where) for where, row in read_rows(source, "prompts")]


def _prompt_from_row(row: Any, where: str) -> Prompt | EncodedPrompt:
    if isinstance(row, Prompt | EncodedPrompt):
        checked_text(row.text, where)
        return row
    row = text_or_messages(row, where, "prompt")
    if isinstance(row, str):
        return Prompt(checked_text(row, where))
    if isinstance(row, list | tuple | np.ndarray):
        return Prompt("", {}, checked_messages(row, where))
    if not isinstance(row, Mapping):
        raise ValueError(
            f"{where} is {brief(row)}, a {type(row).__name__}: "
            "give a string, or a mapping with a column 'prompt'."
        )
    # A table of rows of both kinds has None, or an empty cell, in the column that one does not use.
    no_prompt = row.get("prompt") is None or (row["prompt"] == "" and row.get("messages"))
    by_messages = no_prompt and row.get("messages") is not None
    column = "messages" if by_messages else "prompt"
    if column not in row:
        fix = "rename the column that holds the prompt."
        if {"role", "content"} <= row.keys():
            fix = "this is one message, so put the list of messages into a list of prompts."
        columns = brief(sorted(map(str, row)))
        raise ValueError(f"{where} has no column 'prompt', only {columns}: {fix}")
    data = {name: value for name, value in row.items() if name not in ("prompt", column)}
    value = text_or_messages(row[column], where, column)
    if isinstance(value, str) and column == "prompt":
        return Prompt(checked_text(value, where), data)
    return Prompt("", data, checked_messages(value, where, column))
