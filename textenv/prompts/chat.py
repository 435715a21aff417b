"""Conversations as prompts: their messages, and the text that a chat template makes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from textenv.arguments import first_line

Messages = tuple[Mapping[str, Any], ...]


def checked_messages(messages: Any, where: str, column: str = "prompt") -> Messages:
    """The messages of a conversation, each with a text as its content.

    A content that is given as parts, `[{"type": "text", "text": ...}, ...]`, becomes the text of
    its parts. `where` is the beginning of an error message, `column` the name of the column that
    holds the messages.
    """
    read = []
    if isinstance(messages, list | tuple):
        for message in messages:
            content = _content(message, where)
            if content is not None and isinstance(message.get("role"), str):
                read.append({**message, "content": content})
    if read and len(read) == len(messages):
        return tuple(read)
    wanted = "a string, or a list of messages" if column == "prompt" else "a list of messages"
    raise ValueError(
        f"{where} has the {column} {messages!r}: give {wanted}, "
        "each with the strings 'role' and 'content'."
    )


def _content(message: Any, where: str) -> str | None:
    """The text of a message; None if it is not a message."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple) or not content:
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind != "text":
            raise ValueError(
                f"{where} has a message with a part of the type {kind!r}: remove it, for only "
                "parts {'type': 'text', 'text': ...} can be read."
            )
        if kind is None or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return "".join(texts)


def render_conversations(
    conversations: Mapping[int, Sequence[Mapping[str, Any]]], tokenizer: Any
) -> dict[int, str]:
    """Conversations as the model reads them, with all special tokens, by the tokenizer's template.

    The header of the assistant's answer follows the last message. A last message that is the
    assistant's own is left open instead, so that the response continues it.
    """
    if conversations and not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"The tokenizer {_name(tokenizer)!r} has no chat template, which "
            f"prompts[{min(conversations)}], a conversation, needs: take the tokenizer of a chat "
            "model, set tokenizer.chat_template, or give plain texts without chat=True."
        )
    texts: dict[int, str] = {}
    for number, messages in conversations.items():
        continues = messages[-1].get("role") == "assistant"
        try:
            texts[number] = tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=not continues,
                continue_final_message=continues,
            )
        except Exception as error:  # a template may raise anything
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ValueError(
                f"prompts[{number}], with messages of the roles {roles}, does not fit the chat "
                f"template of the tokenizer {_name(tokenizer)!r} ({first_line(error)}): change "
                "its messages, or the template."
            ) from error
    return texts


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
