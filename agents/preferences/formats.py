"""Rows of preferences, in the formats of public data sets, as a prompt and two responses.

Read are, as texts or as messages:

- TRL's explicit prompt: ``prompt``, ``chosen`` and ``rejected``;
- TRL's implicit prompt, as HH-RLHF has it: ``chosen`` and ``rejected`` begin with the prompt;
- both of these at once, as UltraFeedback has it: the prompt is not repeated then;
- the files of Alpaca's kind: ``instruction`` and ``input`` in place of ``prompt``;
- ``question`` or ``query`` in place of ``prompt``;
- with any of these, a column ``system``, which makes a conversation.

What could be read in two ways is refused, with the name of the column.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from textenv.arguments import brief
from textenv.prompts.chat import checked_messages, checked_text, text_or_messages

Text = str | tuple[Mapping[str, Any], ...]  # or a conversation
RESPONSES = ("chosen", "rejected")
INSTEAD_OF_PROMPT = ("question", "instruction", "query", "input")
ANSWERS = ("assistant", "model")  # the roles of a response
CONTEXTS = ("context", "passage", "document", "article", "background")  # often a part of the prompt

# Columns about a row, which are no prompt even where they are texts.
_ABOUT = re.compile(
    r"(.*_)?(id|idx|index|split|model|language|score|rating|label|labeller|by|hash|url|license|date)"
    r"|(chosen|rejected)_.*"
)
# The end of a dialogue, after which the assistant speaks.
_SPEAKER = re.compile(
    r"[\n<|\[/]\W*(assistant|model|bot|answer|response|AI|A|INST) *[:>\]|\n]\W*$", re.IGNORECASE
)
_LETTERS_OF_SPEAKER = 64


@dataclass(frozen=True)
class Parts:
    """What a row consists of."""

    where: str  # the beginning of messages
    prompt: Any  # a `Text`; None where both responses begin with it
    chosen: Any  # a `Text`, of the same type as the next
    rejected: Any
    data: Mapping[str, Any]  # the other columns
    system: str | None = None  # "" is a conversation without a system message

    @property
    def texts(self) -> tuple[str, str] | None:
        """Both responses, if they are texts."""
        return (self.chosen, self.rejected) if isinstance(self.chosen, str) else None


def read_preferences(rows: Sequence[tuple[str, Any]]) -> list[Parts]:
    """The parts of the rows of one source (`textenv.prompts.files.read_rows`).

    Whether texts repeat their prompt is said by the rows together: an answer may begin with the
    words of its question by chance.
    """
    parts = [_parts(row, where) for where, row in rows]
    repeats = [_repeated(each) for each in parts]
    votes = [end > 0 for end in repeats if end is not None]
    if 0.5 < sum(votes) / max(len(votes), 1) < 1:
        odd = parts[repeats.index(0)].where
        raise ValueError(
            f"{odd} has responses that do not begin with its prompt, as most others do: write the "
            "prompt into none of the responses, or into all."
        )
    whole = bool(votes) and all(votes)
    return [
        _finished(each, end if whole else None) for each, end in zip(parts, repeats, strict=True)
    ]


def _parts(row: Any, where: str) -> Parts:
    """The parts of a row as its columns name them."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is a {type(row).__name__}: give an object with its columns.")
    for column in RESPONSES:
        if column not in row:
            raise ValueError(
                f"{where} has no column {column!r}, only {brief(sorted(map(str, row)))}: a "
                "preference has the columns prompt, chosen and rejected."
            )
    chosen, rejected = (_text(row[column], column, where) for column in RESPONSES)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError(f"{where} has a text and a conversation: give both in one form.")
    if chosen == rejected:
        raise ValueError(
            f"{where} has the same response as chosen and rejected, which says nothing: remove it."
        )
    prompt, used = _prompt_of(row, where, _is_whole(chosen))
    system = row.get("system")
    if isinstance(system, str) and (prompt is not None or not isinstance(chosen, str)):
        used |= {"system"}
        if isinstance(prompt, str) and system.strip() and system.strip() in prompt:
            system = None  # the prompt has it already
    else:
        system = None
    data = {name: value for name, value in row.items() if name not in {*used, *RESPONSES}}
    return Parts(where, prompt, chosen, rejected, data, system)


def _text(value: Any, column: str, where: str) -> Text:
    value = text_or_messages(value, where, column)
    if isinstance(value, str):
        return checked_text(value, where, column)
    return checked_messages([value] if isinstance(value, Mapping) else value, where, column)


def _is_whole(text: Text) -> bool:
    """Whether a conversation has more than the answer."""
    return not isinstance(text, str) and text[0]["role"] not in ANSWERS


def _prompt_of(row: Mapping[str, Any], where: str, whole: bool) -> tuple[Text | None, set[str]]:
    """The prompt of a row, if it has one, and the names of its columns."""
    named = [name for name in INSTEAD_OF_PROMPT if row.get(name)]
    if row.get("prompt") is not None and (row["prompt"] != "" or not named):
        return _text(row["prompt"], "prompt", where), {"prompt"}
    if whole or not named:
        return None, {"prompt"}
    if named == ["instruction", "input"]:
        parts = [row[name] for name in named]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(f"{where} has an instruction or an input that is no text: write one.")
        prompt: Any = "\n".join(parts)
    elif len(named) == 1:
        prompt = row[named[0]]
    else:
        raise ValueError(
            f"{where} has the columns {' and '.join(map(repr, named))}, and each could be the "
            "prompt: rename the one that is to 'prompt'."
        )
    for context in CONTEXTS:
        if row.get(context):
            raise ValueError(
                f"{where} has the column {context!r} beside {named[0]!r}, and it may belong to the "
                "prompt: write the whole prompt into a column 'prompt'."
            )
    if row.get("history"):
        raise ValueError(
            f"{where} has earlier turns in the column 'history': write all turns as messages into "
            "a column 'prompt'."
        )
    return _text(prompt, named[0], where), {"prompt", "input", "history", *named}


def _repeated(parts: Parts) -> int | None:
    """Where the prompt ends within both responses, which begin with it or with a text that has it;
    0 if they do not, None if they are not texts with a prompt."""
    if parts.texts is None or parts.prompt is None:
        return None
    chosen, rejected = parts.texts
    last = parts.prompt if isinstance(parts.prompt, str) else parts.prompt[-1]["content"]
    head = last.strip()
    if not head:
        return None
    end = chosen[: _alike(chosen, rejected)].find(head) + len(head)
    following = chosen[end : end + 1], rejected[end : end + 1]
    within_a_word = head[-1].isalnum() and any(map(str.isalnum, following))
    return 0 if end < len(head) or within_a_word else end


def _finished(parts: Parts, end: int | None) -> Parts:
    """The prompt and the two responses, neither of which has the prompt any more; ``end`` is that
    of the prompt in texts that repeat it."""
    texts = parts.texts
    if texts is None:
        parts = _of_conversations(parts)
    elif parts.prompt is None:
        parts = _of_whole_texts(parts)
    elif end and not isinstance(parts.prompt, str):
        chosen, rejected = (text[end:].lstrip() for text in texts)
        parts = replace(parts, chosen=chosen, rejected=rejected)
    elif end:
        exact = len(parts.prompt) if texts[0].startswith(parts.prompt) else 0
        parts = _split(parts, exact or max(end, _length_of_prompt(*texts)))
    return parts if parts.system is None else _with_system(parts)


def _of_whole_texts(parts: Parts) -> Parts:
    length = _length_of_prompt(parts.chosen, parts.rejected)
    head = parts.chosen[:length]
    could_be = [
        name
        for name, value in parts.data.items()
        if not _ABOUT.fullmatch(str(name)) and (
            (isinstance(value, str) and value.strip() and value.strip() not in head)
            or (isinstance(value, list) and value and isinstance(value[0], str | Mapping))
        )
    ]  # fmt: skip
    speaker = _SPEAKER.search(head[-_LETTERS_OF_SPEAKER:])
    said = re.search(r"\w", head[: -len(speaker[0])]) if speaker else None
    if could_be and not said:
        raise ValueError(
            f"{parts.where} has no column 'prompt', and its column {brief(could_be[0])} could be "
            "it: rename it to 'prompt', or remove it if the two texts begin with the prompt."
        )
    if not length:
        raise ValueError(
            f"{parts.where} has no prompt, and its two texts begin differently: add a column "
            "'prompt'."
        )
    return _split(parts, length)


def _split(parts: Parts, length: int) -> Parts:
    """The parts of a row whose responses begin with a prompt of this length."""
    chosen, rejected = parts.chosen, parts.rejected
    return replace(
        parts, prompt=chosen[:length], chosen=chosen[length:], rejected=rejected[length:]
    )


def _alike(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The number of letters or messages with which two begin."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # halving compares long texts faster than letter by letter
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _length_of_prompt(chosen: str, rejected: str) -> int:
    """Letters with which both texts begin; a word that both begin with belongs to the responses."""
    in_words = string.ascii_letters + string.digits + string.punctuation
    return len(chosen[: _alike(chosen, rejected)].rstrip(in_words).rstrip(" "))


def _of_conversations(parts: Parts) -> Parts:
    where, prompt = parts.where, parts.prompt
    if _is_whole(parts.chosen) or prompt is None:
        length = _alike(list(map(_said, parts.chosen)), list(map(_said, parts.rejected)))
        if not length:
            raise ValueError(
                f"{where} has two conversations that begin differently: begin both with the "
                "prompt, or give only the assistant's answers beside a column 'prompt'."
            )
        parts = _split(parts, length)
        prompt = _whole_prompt(prompt, parts.prompt, where)
    elif isinstance(prompt, str):
        prompt = ({"role": "user", "content": prompt},)
    for column, messages in (("chosen", parts.chosen), ("rejected", parts.rejected)):
        if len(messages) != 1 or messages[0]["role"] not in ANSWERS:
            roles = brief([message["role"] for message in messages])
            raise ValueError(
                f"{where} has after the prompt, in {column}, messages of the roles {roles}: give "
                "one message of the assistant, and all that comes before it in both conversations."
            )
    return replace(parts, prompt=prompt)


def _whole_prompt(
    prompt: Text | None, common: tuple[Mapping[str, Any], ...], where: str
) -> tuple[Mapping[str, Any], ...]:
    """The prompt of a row whose responses begin with it: the one of the column and the messages
    with which both begin are the same, or one is the end of the other."""
    said = [_said(message) for message in common]
    if prompt is None:
        return common
    if isinstance(prompt, str):
        if any(prompt.strip() == content.strip() for _, content in said):
            return common
    else:
        given = [_said(message) for message in prompt]
        if said[-len(given) :] == given:
            return common
        if given[-len(said) :] == said:
            return prompt
    raise ValueError(
        f"{where} has the prompt {brief(prompt)}, and the conversations in chosen and rejected do "
        "not begin with it: remove the column 'prompt', or leave only the answers in the others."
    )


def _said(message: Mapping[str, Any]) -> tuple[str, str]:
    return message["role"], message["content"]


def _with_system(parts: Parts) -> Parts:
    """The parts as a conversation, which begins with the system message if there is one."""
    prompt = parts.prompt
    if isinstance(prompt, str):
        prompt = ({"role": "user", "content": prompt},)
        answers = [
            ({"role": "assistant", "content": text},) if isinstance(text, str) else text
            for text in (parts.chosen, parts.rejected)
        ]
        parts = replace(parts, chosen=answers[0], rejected=answers[1])
    if parts.system and parts.system.strip() and prompt[0]["role"] != "system":
        prompt = ({"role": "system", "content": parts.system}, *prompt)
    return replace(parts, prompt=prompt)
