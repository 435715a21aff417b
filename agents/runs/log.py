"""The log of a run: a table and TensorBoard, which can go on after a break."""

import csv
import io
import json
from pathlib import Path
from typing import Any, TextIO

from stable_baselines3.common.logger import (
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)
from torch.utils.tensorboard import SummaryWriter

from agents import files
from agents.runs.folder import RunFolder

STEP = "time/total_timesteps"


def run_logger(folder: RunFolder, timesteps: int) -> Logger:
    """A logger of stable-baselines3 that writes into a run's folder. What was logged beyond
    ``timesteps``, at which learning begins or goes on, before a break, is removed."""
    outputs: list[KVWriter] = [
        ProgressTable(folder.progress, timesteps), TensorBoard(folder.path, timesteps)
    ]  # fmt: skip
    return Logger(str(folder.path), outputs)


def cut_completions(path: Path, timesteps: int) -> None:
    """Remove the episodes beyond ``timesteps`` from a file of completions."""

    def kept(line: str) -> bool:
        try:
            return line.endswith("\n") and json.loads(line)["step"] <= timesteps
        except (ValueError, KeyError):
            return False  # the last line of a process that was killed

    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            lines = file.readlines()
        files.write_text(path, "".join(filter(kept, lines)))


class ProgressTable(KVWriter):
    """``progress.csv``: one row for each entry of the log; missing values are empty.

    It differs from the CSV format of stable-baselines3 in that it goes on with a file, and that it
    replaces a file as a whole when a new column comes.
    """

    def __init__(self, path: Path, timesteps: int):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = []
        if path.is_file() and timesteps > 0:
            with open(path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.rows = [row for row in reader if self._is_before(row, timesteps)]
                self.columns = list(reader.fieldnames or [])
        self._rewrite()

    @staticmethod
    def _is_before(row: dict[str, Any], timesteps: int) -> bool:
        try:
            return None not in row.values() and int(row[STEP]) <= timesteps
        except (KeyError, ValueError):
            return False  # the last row of a process that was killed

    def _rewrite(self) -> None:
        """Replace the whole file, and go on at its end."""
        whole = io.StringIO(newline="")
        if self.columns:
            self._table(whole).writeheader()
            self._table(whole).writerows(self.rows)
        files.write_text(self.path, whole.getvalue())
        self.file = open(self.path, "a", newline="", encoding="utf-8")

    def _table(self, file: TextIO) -> csv.DictWriter:
        return csv.DictWriter(file, self.columns, lineterminator="\n")

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        row = filter_excluded_keys(key_values, key_excluded, "csv")
        new = [name for name in row if name not in self.columns]
        self.rows.append(row)
        if new:
            self.columns += new
            self.file.close()
            self._rewrite()
        else:
            self._table(self.file).writerow(row)
            self.file.flush()

    def close(self) -> None:
        self.file.close()


class TensorBoard(TensorBoardOutputFormat):
    """Events for TensorBoard; those beyond ``timesteps``, from before a break, are not shown."""

    def __init__(self, folder: Path, timesteps: int):
        self.writer = SummaryWriter(str(folder), purge_step=timesteps + 1 if timesteps else None)
        self._is_closed = False
