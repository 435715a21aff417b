"""Evaluated episodes: their numbers, their texts, and how they are kept in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents import files
from textenv.prompts.chat import Rendered, asked

DISTINCT_EPISODES = 256  # distinct-n decreases with the number of texts, so all use the same


@dataclass(frozen=True, repr=False)
class TextEvaluation:
    """Episodes of text and their scores, one entry per episode.

    Attributes:
        scores: the scores of the reward, without shaping.
        paid: the scores minus the penalty of an episode that never stopped.
        kls: KL(π‖π_ref) of the whole episode, nats: Σ_t log π(a_t|s_t) − log π_ref(a_t|s_t), whose
            mean is unbiased. Empty without a reference.
        recomputed_kls: the same from one plain forward pass of both models, without cache, chunks
            or anything else that the loop uses; of a real model only those of the first episodes.
        lengths: numbers of tokens.
        prompts, responses: texts.
        tokens_per_second: the speed of generation and scoring.
        kl_coef: β, units of the score per nat, by which the episodes are judged.
        sampled_tokens: all tokens that were sampled for these episodes, also those of texts that
            were not chosen (best of n).
        transcripts: of dialogues, the responses with what was replied; else empty.
    """

    scores: np.ndarray
    paid: np.ndarray
    kls: np.ndarray
    recomputed_kls: np.ndarray
    lengths: np.ndarray
    prompts: list[str]
    responses: list[str]
    tokens_per_second: float
    kl_coef: float = 0.0
    sampled_tokens: int = 0
    transcripts: Sequence[str] = ()

    @property
    def texts(self) -> Sequence[str]:
        """What people read: the transcripts of dialogues, or the responses."""
        return self.transcripts or self.responses

    def __repr__(self) -> str:
        kl = f", KL {self.kls.mean():z.2f} nats" if len(self.kls) else ""
        return (
            f"TextEvaluation of {len(self.scores)} episodes: return {with_error(self.returns)}, "
            f"score {with_error(self.scores)}{kl}, {self.lengths.mean():.1f} tokens"
        )

    @property
    def returns(self) -> np.ndarray:
        """score − penalty − β·KL of each episode, the mean of which agents maximise."""
        return self.paid - self.kl_coef * self.kls if self.kl_coef else self.paid

    @property
    def distinct_2(self) -> float:
        """`distinct_n` of the first 256 responses."""
        return distinct_n(self.responses[:DISTINCT_EPISODES], 2)

    def summary(self) -> dict[str, dict[str, float | None] | float]:
        """Return, score, KL (nats) and length (tokens), each with mean, standard error and count.

        And distinct-2, β and the speed, by which `load` makes the table again.
        """
        columns = {
            "return": self.returns, "score": self.scores, "kl": self.kls,
            "recomputed_kl": self.recomputed_kls, "length": self.lengths,
        }  # fmt: skip
        return {name: mean_and_error(values) for name, values in columns.items() if len(values)} | {
            "distinct_2": self.distinct_2,
            "kl_coef": self.kl_coef,
            "tokens_per_second": self.tokens_per_second,
            "sampled_tokens": self.sampled_tokens,
        }

    def save(self, path: Path) -> None:
        """Write the episodes as JSON lines, which pandas and datasets read."""
        columns = {name: getattr(self, name) for name in EPISODE_COLUMNS.values()}
        rows = [
            {
                name: columns[field][index]
                for name, field in EPISODE_COLUMNS.items()
                if index < len(columns[field])
            }
            for index in range(len(self.scores))
        ]
        for row, prompt in zip(rows, self.prompts, strict=True):
            if asked(prompt) != prompt:
                row["asked"] = asked(prompt)
        lines = (json.dumps(row, default=lambda number: number.item()) for row in rows)
        files.write_text(path, "".join(line + "\n" for line in lines))

    @classmethod
    def load(cls, path: Path, summary: Mapping[str, Any]) -> TextEvaluation:
        """The evaluation of the episodes that `save` wrote, and of its `summary`."""
        rows, columns = read_episodes(path, summary), dict[str, Any]()
        with files.reading(path):
            for name, field in EPISODE_COLUMNS.items():
                values = [row[name] for row in rows if name in row]
                is_text, needed = name in TEXTS, name not in SOME_HAVE
                for value in values:
                    files.check_kind(name, value, str if is_text else int | float)
                if len(values) != len(rows) and (needed or (name == "kl" and values)):
                    raise KeyError(name)
                columns[field] = values if is_text else np.array(values)
            columns["prompts"] = [
                Rendered(row["prompt"], str(row["asked"])) if "asked" in row else row["prompt"]
                for row in rows
            ]
        with files.reading(path.with_name("evaluation.json")):
            return cls(
                **columns,
                tokens_per_second=summary["tokens_per_second"],
                kl_coef=summary["kl_coef"],
                sampled_tokens=summary.get("sampled_tokens", int(columns["lengths"].sum())),
            )


def read_episodes(path: Path, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file of episodes, as many as its ``summary`` says."""
    with files.reading(path.with_name("evaluation.json")):
        count = summary["return"]["count"]
    with files.reading(path):
        lines = path.read_bytes().decode("utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        if not rows or not all(isinstance(row, dict) for row in rows):
            raise ValueError("it has no episodes")
        if len(rows) != count:
            raise ValueError(f"it has {len(rows)} of {count} episodes")
        return rows


# Columns of a file of episodes, and the attributes that they are from.
EPISODE_COLUMNS = {
    "prompt": "prompts", "response": "responses", "score": "scores", "paid": "paid", "kl": "kls",
    "recomputed_kl": "recomputed_kls", "length": "lengths", "transcript": "transcripts",
}  # fmt: skip
TEXTS = ("prompt", "response", "transcript")
SOME_HAVE = ("kl", "recomputed_kl", "transcript")


def mean_and_error(values: np.ndarray) -> dict[str, float | None]:
    """Mean, standard error (None of a single value) and count."""
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error, "count": len(values)}


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different word n-grams / all word n-grams of a corpus (Li et al. 2016): low if texts repeat.

    It decreases with the size of the corpus, so compare only corpora of the same size.
    """
    grams = [
        tuple(words[i : i + n])
        for words in (text.lower().split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / max(len(grams), 1)


def with_error(values: np.ndarray) -> str:
    """The mean and its standard error, which a single value does not have."""
    summary = mean_and_error(values)
    error = summary["standard_error"]
    return f"{summary['mean']:+.3f}" + ("" if error is None else f" ± {error:.3f}")
