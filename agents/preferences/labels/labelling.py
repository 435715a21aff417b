"""A labelling: pairs that are fixed before it begins, and each answer that people give.

Three files lie side by side; of ``--output runs/labels.jsonl`` they are

runs/labels.pairs.json       the pairs, and the settings that they were sampled with
runs/labels.answers.jsonl    each answer and each undo, one a line, in the order in which they came
runs/labels.jsonl            the preferences that follow, in the columns of TRL's format

The second one is only ever appended to, and is forced to the disk before an answer counts. All
else follows from it: whoever opens the files again, after a kill or beside another process, goes on
where the answers end.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from agents.files import check_no_links, write_json, write_text
from agents.preferences.duels import Judgement
from agents.preferences.labels.answers import CHOICES, UNDO, Answers, checked_name
from agents.preferences.pairs import Pair, Preference, as_lines
from textenv.arguments import as_path

NO_SCORES = (float("nan"), float("nan"))  # a person decides


@dataclass(frozen=True)
class View:
    """What one person is asked now."""

    labelling: str  # the `Labelling.fingerprint` of the pairs
    labeller: str  # the name of the person
    # How often this person has answered or undone. An answer says at which turn it was given, so
    # that it counts once, from whichever window it comes.
    turn: int
    answered: int  # the number of pairs that have an answer of this person
    total: int  # the number of pairs
    pair: Pair | None  # the next one; None if all have an answer


class Labelling:
    """The pairs and answers of a file of labels. Several threads and processes may use it at once.

    Args:
        path: the file of preferences; the two others lie beside it.

    Attributes:
        pairs: in the order of the file.
        settings: with which they were made.
        fingerprint: says whether two labellings have the same pairs.

    Raises:
        FileNotFoundError: no labelling has begun there (see `create`).
        ValueError: one of its files is damaged; the message names the line.
        FileExistsError: one of its files is a link.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path, self.pairs_file, self.answers_file = files(path)
        if not self.pairs_file.is_file():
            raise FileNotFoundError(f"There is no labelling in {str(self.path)!r}: check the path.")
        try:
            content = self.pairs_file.read_bytes()
            saved = json.loads(content)
            self.settings: dict[str, Any] = saved["settings"]
            self.pairs = [_pair_from_row(row) for row in saved["pairs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self.pairs_file)!r} is damaged ({error}): choose another --output."
            ) from error
        lock = self.path.with_name(f".{self.path.name.removesuffix('.jsonl')}.lock")
        check_no_links(self.answers_file, lock)  # the other files are replaced as a whole
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]
        self._answers = Answers(self.answers_file, lock, len(self.pairs))
        with self._answers.up_to_date():
            self._write_preferences()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], pairs: Sequence[Pair], settings: Mapping[str, Any]
    ) -> Self:
        """Write the pairs, and the settings that they were made with, to new files beside ``path``;
        from then on they are the ones that are labelled. Each person gets an order of their own."""
        check_new(path)
        pairs_file = files(path)[1]
        pairs_file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"prompt": pair.prompt, "responses": pair.responses, "sources": pair.sources}
            | ({"messages": pair.messages} if pair.messages else {})
            for pair in pairs
        ]
        write_json(pairs_file, {"settings": dict(settings), "pairs": rows})
        return cls(path)

    # --- what a page needs ------------------------------------------------------------------

    def view(self, labeller: str) -> View:
        """What a person is asked now."""
        name = checked_name(labeller)
        with self._answers.up_to_date():
            number, record = self._next(name), self._answers.record(name)
            pair = None if number is None else self.pairs[number]
            answered, total = len(record.answers), len(self.pairs)
            return View(self.fingerprint, name, record.turn, answered, total, pair)

    def answer(self, labeller: str, turn: int, choice: str) -> bool:
        """Store an answer, one of `CHOICES`, to the pair of the `view` with this turn. It is on
        disk at the return; a tie and a skip make no preference.

        Returns:
            False, with nothing stored, if that view was answered already (a key pressed twice, or
            another window).

        Raises:
            OSError: it cannot be written; the next view shows whether it counts.
            ValueError: the name or the choice is not valid, or all pairs are answered.
        """
        if choice not in CHOICES:
            raise ValueError(f"choice={choice!r} is unknown: use one of {', '.join(CHOICES)}.")
        name = checked_name(labeller)
        with self._answers.up_to_date():
            if turn != self._answers.record(name).turn:
                return False
            number = self._next(name)
            if number is None:
                raise ValueError(f"labeller={name!r} has answered all {len(self.pairs)} pairs.")
            self._store(name, number, choice)
            return True

    def undo(self, labeller: str, turn: int) -> bool:
        """Take the last answer of a person back, for which the pair is asked again.

        False, with nothing stored, if the view with this turn is an old one, or there is nothing to
        undo. Errors as of `answer`.
        """
        name = checked_name(labeller)
        with self._answers.up_to_date():
            record = self._answers.record(name)
            if turn != record.turn or not record.answers:
                return False
            self._store(name, next(reversed(record.answers)), UNDO)
            return True

    # --- what comes of it -------------------------------------------------------------------

    def counts(self) -> dict[str, dict[str, int]]:
        """How often each person, in the order of their first answers, made each choice."""
        with self._answers.up_to_date():
            return {
                name: {c: list(record.answers.values()).count(c) for c in CHOICES}
                for name, record in self._answers.records.items()
            }

    def preferences(self) -> list[Preference]:
        """The preferences that stand, person by person; their columns say who decided and wrote."""
        with self._answers.up_to_date():
            return self._preferences()

    def judgements(self) -> list[Judgement]:
        """What people think of each pair that somebody has decided, ties included, skips not."""
        margins: dict[int, int] = {}
        with self._answers.up_to_date():
            for record in self._answers.records.values():
                for number, choice in record.answers.items():
                    if choice != "skip":
                        vote = {"left": 1, "right": -1, "tie": 0}[choice]
                        margins[number] = margins.get(number, 0) + vote
        return [
            Judgement(*self.pairs[number].sources, margin)
            for number, margin in sorted(margins.items())
        ]

    # --- within `up_to_date` ------------------------------------------------------------------

    def _store(self, name: str, number: int, choice: str) -> None:
        self._answers.append(name, number, choice)
        self._write_preferences()

    def _write_preferences(self) -> None:
        write_text(self.path, as_lines(self._preferences()))

    def _preferences(self) -> list[Preference]:
        found = []
        for name, record in self._answers.records.items():
            for number, choice in record.answers.items():
                if choice not in ("left", "right"):
                    continue
                pair, better = self.pairs[number], int(choice == "right")
                data = {
                    "labeller": name, "pair": number,
                    "chosen_by": pair.sources[better], "rejected_by": pair.sources[1 - better],
                }  # fmt: skip
                chosen, rejected = pair.responses[better], pair.responses[1 - better]
                found.append(Preference(pair.prompt, chosen, rejected, data))
        return found

    def _next(self, name: str) -> int | None:
        """The number of the first pair, in this person's order, without an answer."""
        order = np.random.default_rng(list(name.encode())).permutation(len(self.pairs))
        answered = self._answers.record(name).answers
        return next((int(number) for number in order if int(number) not in answered), None)


def files(path: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """Of a labelling: the file of preferences, that of the pairs, and that of the answers."""
    path = as_path(path)
    stem = path.name.removesuffix(".jsonl")
    return path, path.with_name(f"{stem}.pairs.json"), path.with_name(f"{stem}.answers.jsonl")


def check_new(path: str | os.PathLike[str]) -> None:
    """Raise an error if one of the files of a labelling exists."""
    for file in files(path):
        if file.exists():
            raise FileExistsError(f"{str(file)!r} exists: choose another --output.")


def _pair_from_row(row: Mapping[str, Any]) -> Pair:
    messages = tuple(row["messages"]) if row.get("messages") else None
    left, right = row["responses"]
    first, second = row["sources"]
    return Pair(row["prompt"], (left, right), NO_SCORES, (first, second), messages)
