"""The log of a run: a table and TensorBoard, which can go on after a break."""

import csv
import io
import json
from contextlib import ExitStack
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
from agents.evaluation.plots import TOKENS as STEP
from agents.evaluation.plots import read_rows
from agents.runs.folder import RunFolder


def run_logger(folder: RunFolder, timesteps: int) -> Logger:
    """A logger of stable-baselines3 that writes into a run's folder. What was logged beyond
    ``timesteps``, at which learning begins or goes on, before a break, is removed."""
    with ExitStack() as opened:
        table = ProgressTable(folder.progress, timesteps)
        opened.callback(table.close)
        outputs: list[KVWriter] = [table, TensorBoard(folder.path, timesteps)]
        opened.pop_all()
    return Logger(str(folder.path), outputs)


def cut_completions(path: Path, timesteps: int) -> None:
    """Remove the episodes beyond ``timesteps`` from a file of completions, and half a line at its
    end, of a process that was killed; anything else that cannot be read is a `DamagedFile`."""
    text = ""
    if path.exists():
        with files.reading(path):
            text = path.read_bytes().decode("utf-8")
            lines = [line + "\n" for line in text.split("\n")[:-1]]
            text = "".join(line for line in lines if json.loads(line)["step"] <= timesteps)
    files.write_text(path, text)


class ProgressTable(KVWriter):
    """``progress.csv``: one row for each entry of the log; missing values are empty.

    It differs from the CSV format of stable-baselines3 in that it goes on with a file, and that it
    replaces a file as a whole when a new column comes.
    """

    def __init__(self, path: Path, timesteps: int):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = []
        if path.exists() and timesteps > 0:
            rows = read_rows(path)
            self.rows = [row for row in rows if float(row[STEP]) <= timesteps]
            self.columns = list(rows[0]) if rows else []
        self._rewrite()

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
