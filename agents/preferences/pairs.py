"""Preferences: which of two responses to a prompt is better. Reading, writing and labelling them.

The columns are those of TRL's preference format, and of other public data sets
(`agents.preferences.formats`): a ``prompt`` with a ``chosen`` and a ``rejected`` response; or only
``chosen`` and ``rejected``, two whole texts or conversations that begin with the same prompt. Other
columns are kept as data.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from agents.evaluation.sampling import sample
from agents.experience import environments
from agents.preferences.formats import Text, read_preferences
from textenv.arguments import as_path
from textenv.prompts.chat import answered, render_conversation
from textenv.prompts.files import read_rows


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
    """Read preferences from a file, a table or an iterable of mappings, such as a
    ``datasets.Dataset``, in the formats of `agents.preferences.formats`.

    A file is ``.csv``, ``.parquet``, one array of JSON, or, with any other ending, JSON lines; each
    may be compressed by gzip, ``.jsonl.gz``. The message of a ValueError names the line of a row
    that is no preference.
    """
    if isinstance(source, str | os.PathLike) and not as_path(source).is_file():
        raise FileNotFoundError(f"preferences={str(source)!r} is not a file: check the path.")
    rows = read_rows(source, "preferences")
    read = iter(read_preferences([row for row in rows if not isinstance(row[1], Preference)]))
    preferences = []
    for _, row in rows:
        if not isinstance(row, Preference):
            parts = next(read)
            row = Preference(*(getattr(parts, each.name) for each in fields(Preference)))
        preferences.append(row)
    return preferences


def render(preference: Preference, tokenizer: Any) -> tuple[str, str]:
    """The two whole texts of a preference, prompt and response; conversations by the template."""
    prompt, where = preference.prompt, preference.where or "a preference"
    texts = []
    for response in (preference.chosen, preference.rejected):
        if isinstance(prompt, str):
            texts.append(prompt + str(response))
            continue
        messages = answered(prompt, response) if isinstance(response, str) else [*prompt, *response]
        texts.append(render_conversation(messages, tokenizer, where, preference.data, whole=True))
    return texts[0], texts[1]


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
