"""The file of answers: one line each, only ever appended to, forced to the disk before it counts.

Several threads and processes may use it at once. A process that is killed while it writes leaves at
most half a line, which nobody was told of, and which the next answer replaces.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

CHOICES = ("left", "right", "tie", "skip")
UNDO = "undo"
MAX_NAME = 40  # characters


@dataclass
class Record:
    """Of one person: the number of lines in the file, and the answers that stand, as they came."""

    turn: int = 0
    answers: dict[int, str] = field(default_factory=dict)  # choice by pair


class Answers:
    """The answers in a file, which need not exist, about ``n_pairs`` pairs. Processes lock another
    file beside it."""

    def __init__(self, path: Path, lock: Path, n_pairs: int):
        self.path, self.n_pairs = path, n_pairs
        # Of each person, in the order of their first answers. Use it within `up_to_date`.
        self.records: dict[str, Record] = {}
        self._read, self._lines = 0, 0  # bytes and lines that are in memory
        self._thread_lock, self._file_lock = threading.Lock(), FileLock(lock)

    @contextmanager
    def up_to_date(self) -> Iterator[None]:
        """Within it nobody else writes, and what others have written is in memory."""
        # First the threads of this process: waiting for a file lock means asking again and again.
        with self._thread_lock, self._file_lock:
            self._read_new_lines()
            yield

    def record(self, name: str) -> Record:
        """Of a person, who need not have answered yet."""
        return self.records.get(name) or Record()

    def append(self, name: str, number: int, choice: str) -> None:
        """Write the choice of a person about a pair (one of `CHOICES`, or `UNDO` of this person's
        last answer), wait until it is on the disk, and take it into memory."""
        row = {
            "labeller": name, "turn": self.record(name).turn, "pair": number, "choice": choice,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        with open(self.path, "ab") as file:
            file.truncate(self._read)  # half a line of a process that was killed
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._read_new_lines()

    def _read_new_lines(self) -> None:
        if not self.path.exists() and not self._read:
            return
        with open(self.path, "rb") as file:
            if file.seek(0, os.SEEK_END) < self._read:
                raise ValueError(
                    f"{str(self.path)!r} has become shorter: put it back, and start again."
                )
            file.seek(self._read)
            # What follows the last line break is half a line, of a process that was killed while it
            # wrote. Nobody has been told that it counts.
            new = file.read()
        for line in new.split(b"\n")[:-1]:
            self._replay(line)
            self._read, self._lines = self._read + len(line) + 1, self._lines + 1

    def _replay(self, line: bytes) -> None:
        """Take a line of the answers into memory."""
        try:
            row = json.loads(line)
            name, turn, number, choice = (
                row[key] for key in ("labeller", "turn", "pair", "choice")
            )
            record = self.records.setdefault(checked_name(name), Record())
            fits = turn == record.turn and 0 <= number < self.n_pairs
            if choice == UNDO:
                fits = fits and bool(record.answers) and next(reversed(record.answers)) == number
            else:
                fits = fits and choice in CHOICES and number not in record.answers
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise ValueError(
                f"{str(self.path)!r}, line {self._lines + 1}, does not fit the lines "
                "before it: put the file back as it was, or remove this line and those after it."
            )
        record.turn += 1
        if choice == UNDO:
            del record.answers[number]
        else:
            record.answers[number] = choice


def checked_name(name: Any) -> str:
    """The name of a person, without spaces at its ends."""
    short = " ".join(name.split()) if isinstance(name, str) else ""
    if not (0 < len(short) <= MAX_NAME and short.isprintable()):
        raise ValueError(
            f"labeller={name!r} must be a name of 1 to {MAX_NAME} characters on one line."
        )
    return short
