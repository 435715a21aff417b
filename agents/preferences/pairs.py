"""Preferences: which of two responses to a prompt is better. Reading, writing and labelling them.

The columns are those of TRL's preference format, so that public data sets load as they are: a
``prompt`` with a ``chosen`` and a ``rejected`` response; or only ``chosen`` and ``rejected``, two
whole texts or conversations that begin with the same prompt. Other columns are kept as data.
"""

import json
import os
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation.sampling import sample
from agents.experience import environments
from textenv.arguments import as_path

Text = str | tuple[Mapping[str, str], ...]  # or a conversation
RESPONSES = ("chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt, nobody having said yet which is better."""

    prompt: str  # the text that both continue
    responses: tuple[str, str]  # the order is random and says nothing
    scores: tuple[float, float]  # of a reward, for labels by a reward
    sources: tuple[str, str] = ("", "")  # the names of those who wrote them
    messages: tuple[Mapping[str, str], ...] | None = None  # of a prompt that is a conversation


@dataclass(frozen=True)
class Preference:
    """A prompt, the better and the worse response."""

    prompt: Text  # a text, or a conversation of ``{"role": ..., "content": ...}`` messages
    chosen: Text  # in the form of the prompt, as the other response
    rejected: Text
    # Other columns. Of those that `label` writes, ``probability`` is the one with which this choice
    # was made; a perfect judge agrees with it as often.
    data: Mapping[str, Any] = field(default_factory=dict)
    # The file and line from which it was read, as the beginning of messages.
    where: str = field(default="", compare=False, repr=False)


# --- labelling ----------------------------------------------------------------------------------


def bradley_terry(difference: np.ndarray, temperature: float) -> np.ndarray:
    """P(first is preferred) = σ(difference / temperature), Bradley and Terry 1952.

    ``difference`` is the score of the first minus that of the second, ``temperature`` in the same
    units; 0 always prefers the higher score, and either one of two equal scores.
    """
    if temperature == 0:
        return (np.sign(difference) + 1) / 2
    return 1 / (1 + np.exp(-np.clip(difference / temperature, -700, 700)))


def label(pairs: Sequence[Pair], temperature: float, seed: int) -> list[Preference]:
    """Preferences of a noisy judge who goes by the scores of the pairs (`bradley_terry`); ``seed``
    is that of the choices."""
    if not (np.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature={temperature!r} must be a number of at least 0.")
    table = np.array([pair.scores for pair in pairs]).reshape(len(pairs), 2)
    first = bradley_terry(table[:, 0] - table[:, 1], temperature)
    chosen = np.where(np.random.default_rng(seed).random(len(pairs)) < first, 0, 1)
    preferences = []
    for pair, row, better, probability in zip(pairs, table, chosen, first, strict=True):
        worse = 1 - better
        data = {
            "chosen_score": float(row[better]), "rejected_score": float(row[worse]),
            "probability": float(probability if better == 0 else 1 - probability),
            "chosen_by": pair.sources[better], "rejected_by": pair.sources[worse],
        }  # fmt: skip
        chosen_text, rejected_text = pair.responses[better], pair.responses[worse]
        preferences.append(Preference(pair.prompt, chosen_text, rejected_text, data))
    return preferences


def ceiling(preferences: Sequence[Preference]) -> float | None:
    """The accuracy that a perfect judge is expected to have; None if the noise is not known.

    Who knows both scores prefers the higher one, and is right with the larger of the probabilities
    with which the label fell on either side.
    """
    known = [preference.data.get("probability") for preference in preferences]
    values = [float(value) for value in known if value is not None]
    if not known or len(values) < len(known):
        return None
    return float(np.mean([max(value, 1 - value) for value in values]))


def split(
    preferences: Sequence[Preference], count: int, rng: np.random.Generator
) -> tuple[list[int], int]:
    """A random order whose first preferences are held out, and their number.

    What several people say about the same two texts stays on one side, so that nothing that is held
    out has been learned from; there may be a few more than ``count`` for that.
    """
    pairs = [
        (repr(each.prompt), frozenset((repr(each.chosen), repr(each.rejected))))
        for each in preferences
    ]
    order = [int(index) for index in rng.permutation(len(preferences))]
    first: dict[Any, int] = {}
    for place, index in enumerate(order):
        first.setdefault(pairs[index], place)
    order.sort(key=lambda index: first[pairs[index]])  # stable: alone, a preference keeps its place
    while 0 < count < len(order) and pairs[order[count - 1]] == pairs[order[count]]:
        count += 1
    return order, count


# --- reading and writing --------------------------------------------------------------------------


def as_lines(preferences: Iterable[Preference]) -> str:
    """Preferences as JSON lines, which `load_preferences`, ``datasets`` and TRL read."""
    rows = (
        {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, **p.data}
        for p in preferences
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def load_preferences(source: str | os.PathLike[str] | Iterable[Any]) -> list[Preference]:
    """Read preferences from a file of JSON lines, or from an iterable of mappings, such as a
    ``datasets.Dataset``.

    The columns are ``chosen`` and ``rejected``, and ``prompt`` unless both begin with it. The
    message of a ValueError names the line of a row that is no preference.
    """
    if not isinstance(source, str | os.PathLike):
        rows = [(f"preferences[{index}]", row) for index, row in enumerate(source)]
        name = "preferences"
    else:
        rows, name = _rows_of_file(as_path(source)), f"preferences={str(source)!r}"
    if not rows:
        raise ValueError(f"{name} is empty: give at least one preference.")
    return [_from_row(row, where) for where, row in rows]


def _rows_of_file(path: Path) -> list[tuple[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"preferences={str(path)!r} is not a file: check the path.")
    rows = []
    # Not `splitlines`, which also breaks at separators that a text may contain.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        where = f"preferences={str(path)!r}, line {number},"
        if line.strip():
            try:
                rows.append((where, json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"{where} is not JSON ({error}): write one object a line.") from (
                    error
                )
    return rows


def _from_row(row: Any, where: str) -> Preference:
    if isinstance(row, Preference):
        return row
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is a {type(row).__name__}: give an object with its columns.")
    for column in RESPONSES:
        if column not in row:
            raise ValueError(
                f"{where} has no column {column!r}, only {sorted(map(str, row))}: a preference has "
                "the columns prompt, chosen and rejected."
            )
    chosen, rejected = (_text(row[column], column, where) for column in RESPONSES)
    if row.get("prompt") is None:
        prompt, chosen, rejected = _split_prompt(chosen, rejected, where)
    else:
        prompt = _text(row["prompt"], "prompt", where)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError(f"{where} has a text and a conversation: give both in one form.")
    if chosen == rejected:
        raise ValueError(
            f"{where} has the same response as chosen and rejected, which says nothing: remove it."
        )
    data = {name: value for name, value in row.items() if name not in ("prompt", *RESPONSES)}
    return Preference(prompt, chosen, rejected, data, where)


def _text(value: Any, column: str, where: str) -> Text:
    if isinstance(value, str):
        return value
    messages = isinstance(value, list | tuple) and all(
        isinstance(message, Mapping)
        and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in value
    )
    if not messages or not value:
        raise ValueError(
            f"{where} has {column}={value!r}: give a text, or a list of messages, each with the "
            "strings 'role' and 'content'."
        )
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _split_prompt(chosen: Text, rejected: Text, where: str) -> tuple[Text, Text, Text]:
    """The common beginning of two texts, as far as a whole word or message, and the two rests."""
    both = zip(chosen, rejected, strict=False)
    length = len(list(takewhile(lambda pair: pair[0] == pair[1], both)))
    if isinstance(chosen, str):  # a word that both begin with belongs to the responses
        in_words = string.ascii_letters + string.digits + string.punctuation
        length = len(chosen[:length].rstrip(in_words).rstrip(" "))
    if not length:
        raise ValueError(
            f"{where} has no prompt, and its two texts begin differently: add a column 'prompt'."
        )
    return chosen[:length], chosen[length:], rejected[length:]


def render(preference: Preference, tokenizer: Any) -> tuple[str, str]:
    """The two whole texts of a preference, prompt and response; conversations by the template."""

    def plain(text: Any) -> str:
        return text if isinstance(text, str) else "".join(message["content"] for message in text)

    head = preference.prompt
    if not isinstance(head, str):
        if tokenizer.chat_template is None:
            raise ValueError(
                "The preferences are conversations, but the model's tokenizer has no chat "
                "template: take a chat model, or give the preferences as texts."
            )
        head = tokenizer.apply_chat_template(list(head), add_generation_prompt=True, tokenize=False)
    return head + plain(preference.chosen), head + plain(preference.rejected)


def sample_pairs(
    first: Any,
    second: Any,
    n_pairs: int,
    seed: int,
    names: tuple[str, str] = ("first", "second"),
    **changes: Any,
) -> list[Pair]:
    """Two responses to each of ``n_pairs`` prompts, in random order; never the same text twice.

    Args:
        first, second: the agents, which may be the same one.
        n_pairs: number of pairs.
        seed: the seed of prompts, actions and order.
        names: of the two, for `Pair.sources`.
        changes: other arguments of their task, such as ``prompts`` or ``reward``; by default the
            reward of the first scores the texts of both.
    """
    changes = {"reward": environments.text_environments(first.env)[0].task.reward} | changes
    rng = np.random.default_rng([seed, n_pairs])
    pairs: list[Pair] = []
    for number in range(20):  # pairs whose two responses are equal are drawn anew
        missing = n_pairs - len(pairs)
        drawn = [
            sample(agent, missing, seed + number, draw, **changes)
            for draw, agent in enumerate((first, second))
        ]
        for row, prompt in enumerate(drawn[0].prompts):
            left = int(rng.random() < 0.5)  # whose response comes first
            one, other, sources = drawn[left], drawn[1 - left], (names[left], names[1 - left])
            texts = one.responses[row], other.responses[row]
            if texts[0] != texts[1]:
                scores = one.scores[row], other.scores[row]
                pairs.append(Pair(prompt, texts, scores, sources, drawn[0].messages[row]))
        if len(pairs) >= n_pairs:
            return pairs
    raise ValueError(
        f"Only {len(pairs)} of {n_pairs} pairs have two different responses: raise the "
        "temperature, or compare agents that differ."
    )
