"""Conversations: their messages, and the text that a chat template makes of them."""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from textenv.arguments import brief, first_line
from textenv.sharing import plain
from textenv.waiting import TookTooLong, in_time

Messages = tuple[Mapping[str, Any], ...]

PATIENCE = 20  # seconds in which a chat template has to render its first conversation
_known_to_end: set[str] = set()  # templates that have done so

MAX_LETTERS = 1_000_000  # of a text; the tokens of more than that take minutes and gigabytes

# What belongs into a cell, by its column.
MESSAGES = 'a list such as [{"role": "user", "content": "..."}]'
WRITTEN = {
    "messages": f"{MESSAGES}, or name a column of texts 'prompt'",
    "tools": 'a list such as [{"type": "function", "function": {"name": "..."}}]',
    "chat_template_kwargs": 'an object such as {"enable_thinking": false}',
}


def checked_text(text: str, where: str, column: str = "prompt") -> str:
    """The text, if a tokenizer can read it. `where` is the beginning of an error message."""
    if len(text) > MAX_LETTERS:
        raise ValueError(
            f"{where} has a {column} of {len(text):,} letters, more than {MAX_LETTERS:,}: no model "
            "reads so many, so cut it into several."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise ValueError(
            f"{where} has the {column} {brief(text)} with {half}, one half "
            "of a pair that means a character: write the character itself, or remove the half."
        ) from error
    return text


def checked_messages(messages: Any, where: str, column: str = "prompt") -> Messages:
    """The messages of a conversation, each with a text as its content.

    A content that is given as parts, `[{"type": "text", "text": ...}, ...]`, becomes the text of
    its parts. A key whose value is None is left out, for tables have it in every row. `where` is
    the beginning of an error message, `column` the name of the column that holds the messages.
    """
    messages = plain(messages) if isinstance(messages, np.ndarray) else messages
    read = []
    if isinstance(messages, list | tuple):
        for message in messages:
            content = _content(message, where)
            if content is not None and isinstance(message.get("role"), str):
                known = {key: value for key, value in message.items() if value is not None}
                read.append({**known, "content": checked_text(content, where, column)})
    if read and len(read) == len(messages):
        return tuple(read)
    wanted = "a list of messages" if column == "messages" else "a string, or a list of messages"
    raise ValueError(
        f"{where} has the {column} {brief(messages)}: give {wanted}, "
        "each with the strings 'role' and 'content'."
    )


def _content(message: Any, where: str) -> str | None:
    """The text of a message; None if it is not a message."""
    if not isinstance(message, Mapping):
        return None
    if "role" not in message and {"from", "value"} <= message.keys():
        raise ValueError(
            f"{where} has messages with 'from' and 'value': rename these to 'role' and 'content', "
            "and the roles to 'system', 'user' and 'assistant'."
        )
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return ""  # the assistant called a tool and said nothing
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple) or not content:
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind != "text":
            raise ValueError(
                f"{where} has a message with a part of the type {brief(kind)}: remove it, for only "
                "parts {'type': 'text', 'text': ...} can be read."
            )
        if kind is None or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return "".join(texts)


# --- columns that are written as texts ------------------------------------------------------------


def text_or_messages(value: Any, where: str, column: str) -> Any:
    """Messages that a text writes as JSON, as cells of CSV do, as a list; else the value itself."""
    if not isinstance(value, str):
        return value
    if column != "messages":
        begin = re.match(r"\s*(\[?)\s*\{", value)
        keys = (rf"[\"']{key}[\"']\s*:" for key in ("role", "content"))
        if begin is None or not all(re.search(key, value) for key in keys):
            return value
        if not begin[1]:  # one message, or an object that a text begins with
            try:
                return parsed_cell(value, where, column)
            except ValueError:
                return value
    return parsed_cell(value, where, column)


def parsed_cell(cell: str, where: str, column: str) -> Any:
    """What a text writes as JSON, or as Python does where a table of lists became a CSV file."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        try:
            return ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            verb = "are" if column.endswith("s") else "is"
            raise ValueError(
                f"{where} has the {column} {brief(cell)}, which {verb} not JSON "
                f"({first_line(error)}): write {WRITTEN.get(column, MESSAGES)}."
            ) from error


def template_options(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the columns ``tools`` and ``chat_template_kwargs`` of a row pass to a chat template."""
    options: dict[str, Any] = {}
    for column, kind in (("chat_template_kwargs", Mapping), ("tools", list | tuple)):
        value = data.get(column)
        if isinstance(value, str) and value.strip():
            value = parsed_cell(value, where, column)
        if value is None or isinstance(value, str):
            continue
        try:
            value = _without_none(plain(value))
        except RecursionError as error:
            raise ValueError(f"{where} has too many brackets in the {column}: remove them.") from (
                error
            )
        if not isinstance(value, kind):
            raise ValueError(
                f"{where} has the {column} {brief(value)}: write {WRITTEN[column]}, or rename the "
                "column if it is not for the chat template."
            )
        options |= value if column == "chat_template_kwargs" else {"tools": value}
    return options


def _without_none(value: Any) -> Any:
    """Tables give each object of a column the keys of all others, with None as the value."""
    if isinstance(value, list):
        return [_without_none(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return value


# --- rendering ------------------------------------------------------------------------------------


class Rendered(str):
    """A text that a chat template has written, with all special tokens, and what was ``asked``:
    the contents from the last message of the user on."""

    asked: str

    def __new__(cls, text: str, asked: str) -> Self:
        rendered = super().__new__(cls, text)
        rendered.asked = asked
        return rendered

    def __reduce__(self) -> tuple:
        return Rendered, (str(self), self.asked)


def asked(prompt: str) -> str:
    """A prompt as people read it: without what the chat template has written, if one has."""
    return prompt.asked if isinstance(prompt, Rendered) else prompt


def render_conversation(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    where: str,
    data: Mapping[str, Any] | None = None,
    whole: bool = False,
) -> Rendered:
    """A conversation as the model reads it, with all special tokens, by the tokenizer's template.

    The header of the assistant's answer follows the last message. A last message that is the
    assistant's own is left open instead, so that the response continues it. A ``whole`` one is at
    its end. ``data`` are the other columns of its row (`template_options`), ``where`` says which
    row it is, for messages.
    """
    where = where.rstrip(",")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"{without_template(tokenizer)}, which {where}, a conversation, needs: take the "
            "tokenizer of a chat model, set tokenizer.chat_template, or give plain texts."
        )
    continues = messages[-1].get("role") == "assistant"
    options = template_options(data or {}, where)

    def render() -> str:
        return tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=not (continues or whole),
            continue_final_message=continues and not whole,
            **options,
        )

    try:
        text = _of_template(render, str(tokenizer.chat_template))
    except TookTooLong:
        raise ValueError(
            f"The chat template of the tokenizer {_name(tokenizer)!r} has not rendered {where} in "
            f"{PATIENCE} s: it may loop for ever, so take another one."
        ) from None
    except Exception as error:  # a template may raise anything
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ValueError(
            f"{where}, with messages of the roles {brief(roles)[1:-1]}, does not fit the chat "
            f"template of the tokenizer {_name(tokenizer)!r} ({first_line(error)}): change "
            "its messages, or the template."
        ) from error
    users = [place for place, message in enumerate(messages) if message.get("role") == "user"]
    last = users[-1] if users else len(messages) - 1
    return Rendered(text, "\n".join(message["content"] for message in messages[last:]))


def _of_template(render: Callable[[], str], template: str) -> str:
    """What a template writes; the first time in limited time, since it is a program of others."""
    if template in _known_to_end:
        return render()
    text = in_time(render, PATIENCE, "chat template")
    _known_to_end.add(template)
    return text


def answered(messages: Sequence[Mapping[str, Any]], answer: str) -> list[Mapping[str, Any]]:
    """A conversation with the assistant's answer, which continues a last message of its own."""
    if messages[-1].get("role") == "assistant":
        *messages, last = messages
        return [*messages, {**last, "content": last["content"] + answer}]
    return [*messages, {"role": "assistant", "content": answer}]


def without_template(tokenizer: Any) -> str:
    """The beginning of a sentence about a tokenizer without a chat template."""
    return f"The tokenizer {_name(tokenizer)!r} has no chat template"


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
