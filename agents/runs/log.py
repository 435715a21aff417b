"""The log of a run: completions, a table and TensorBoard, which can go on after a break and are
thinned evenly, so that a night of learning does not fill a disk."""

import csv
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from agents.training.console import console

LOG_MEGABYTES = 50.0  # of completions, table and events of a run, together
MB = 10**6
# The name of a file of events: its second, machine and process, and its number in the program.
EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\..*\.\d+\.(\d+)")


class Thinning:
    """Which rollouts one file of a run has, so that it never grows beyond a size.

    All of them at first. When the file has reached its size, every second one is taken out of it,
    and from then on only every second one is written, and so on: what is there is always spread
    evenly over the run.

    Args:
        limit: bytes.
        rollouts, kept: how many the run has had, and how many of these the file has.
        size: of the file, bytes.
    """

    def __init__(self, limit: float, rollouts: int = 0, kept: int = 0, size: int = 0):
        self.limit, self.rollouts, self.stride = limit, rollouts, 1
        if size > limit / 4:  # else it was never thinned, which leaves about a half
            self.stride = 2 ** max(round(math.log2(max(rollouts, 1) / max(kept, 1))), 0)

    def takes(self) -> bool:
        """Whether the next rollout is written."""
        self.rollouts += 1
        return (self.rollouts - 1) % self.stride == 0

    def thin(self, path: Path, size: int, steps: Iterable[int]) -> set[int] | None:
        """The steps that stay in a file of this size; None for all of them."""
        found = sorted({*steps}) if size > self.limit else []
        before = self.stride
        while size > self.limit and len(found) > 1:
            found, size, self.stride = found[::2], size // 2, self.stride * 2
        if self.stride == before:
            return None
        if before == 1:
            console.say(
                f"{path} has reached {self.limit / MB:.3g} MB: it has only every second rollout "
                "from now on, and so on, so that it stays below that size (log_megabytes)."
            )
        return {*found}


def run_logger(
    folder: RunFolder, timesteps: int, rollouts: int = 0, megabytes: float = LOG_MEGABYTES
) -> Logger:
    """A logger of stable-baselines3 that writes into a run's folder. What was logged beyond
    ``timesteps``, at which learning begins or goes on, before a break, is removed.

    ``rollouts`` are those before; ``megabytes`` are for all files of the log together."""
    with ExitStack() as opened:
        table = ProgressTable(folder.progress, timesteps, rollouts, megabytes * MB / 4)
        opened.callback(table.close)
        events = TensorBoard(folder.path, timesteps, rollouts, megabytes * MB / 4)
        opened.pop_all()
    outputs: list[KVWriter] = [table, events]
    return Logger(str(folder.path), outputs)


class Completions:
    """``completions.jsonl``. Episodes beyond ``timesteps`` are removed, and half a line at its end,
    of a process that was killed; anything else that cannot be read is a `DamagedFile`."""

    def __init__(self, path: Path, timesteps: int, rollouts: int, limit: float):
        self.path = path
        kept = self._rewrite(lambda step: step <= timesteps)
        self.thinning = Thinning(limit, rollouts, len(kept), path.stat().st_size)

    def write(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write some episodes of a rollout."""
        if not self.thinning.takes():
            return
        self.file.writelines(json.dumps({"step": step} | dict(row)) + "\n" for row in rows)
        self.file.flush()
        if (size := self.path.stat().st_size) > self.thinning.limit:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            stay = self.thinning.thin(self.path, size, (json.loads(x)["step"] for x in lines))
            if stay is not None:
                self.close()
                self._rewrite(stay.__contains__)

    def _rewrite(self, stays: Callable[[int], bool]) -> set[int]:
        """Keep the lines of some steps, which are returned, and go on at the end of the file."""
        kept, lines = set[int](), list[str]()
        if self.path.exists():
            with files.reading(self.path):
                for line in self.path.read_bytes().decode("utf-8").split("\n")[:-1]:
                    if stays(step := json.loads(line)["step"]):
                        kept.add(step)
                        lines.append(line + "\n")
        files.write_text(self.path, "".join(lines))
        self.file = open(self.path, "a", encoding="utf-8")
        return kept

    def close(self) -> None:
        self.file.close()


class ProgressTable(KVWriter):
    """``progress.csv``: one row for each entry of the log; missing values are empty.

    It differs from the CSV format of stable-baselines3 in that it goes on with a file, that it
    replaces a file as a whole when a new column comes, and that it is thinned.
    """

    def __init__(
        self, path: Path, timesteps: int, rollouts: int = 0, limit: float = LOG_MEGABYTES * MB / 4
    ):
        self.path, self.columns = path, list[str]()
        rows = read_rows(path) if path.exists() and timesteps > 0 else []
        rows = [row for row in rows if float(row[STEP]) <= timesteps]
        self.columns = list(rows[0]) if rows else []
        self._rewrite(rows)
        self.thinning = Thinning(limit, rollouts, len(rows), path.stat().st_size)

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the whole file, and go on at its end."""
        whole = io.StringIO(newline="")
        if self.columns:
            self._table(whole).writeheader()
            self._table(whole).writerows(rows)
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
        if not self.thinning.takes():
            return
        row = filter_excluded_keys(key_values, key_excluded, "csv")
        new = [name for name in row if name not in self.columns]
        if new:
            self.close()
            before = read_rows(self.path) if self.columns else []
            self.columns += new
            self._rewrite([*before, row])
        else:
            self._table(self.file).writerow(row)
            self.file.flush()
        if (size := self.path.stat().st_size) > self.thinning.limit:
            rows = read_rows(self.path)
            stay = self.thinning.thin(self.path, size, (int(float(row[STEP])) for row in rows))
            if stay is not None:
                self.close()
                self._rewrite([row for row in rows if int(float(row[STEP])) in stay])

    def close(self) -> None:
        self.file.close()


class TensorBoard(TensorBoardOutputFormat):
    """Events for TensorBoard; those beyond ``timesteps``, from before a break, are not shown."""

    def __init__(
        self, folder: Path, timesteps: int, rollouts: int = 0,
        limit: float = LOG_MEGABYTES * MB / 4,
    ):  # fmt: skip
        self.folder = folder
        size, kept = self._size(), 0
        if size > limit / 4:
            kept = len({event.step for event in self._events() if event.HasField("summary")})
        self.thinning = Thinning(limit, rollouts, kept, size)
        self._open(timesteps + 1 if timesteps else None)

    def _open(self, purge_step: int | None) -> None:
        # TensorBoard reads files in the order of their names, which begin with the second, and end
        # with a number whose tenth comes before its ninth: no two may have the same second.
        later = int(time.time())
        for path in reversed(self._files()):
            second, rest = int(path.name.split(".")[3]), path.name.split(".", 4)[4]
            if second >= later:
                second = later - 1
                path.rename(path.with_name(f"events.out.tfevents.{second:010d}.{rest}"))
            later = second
        self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)
        self._is_closed = False

    def _files(self) -> list[Path]:
        """The files of events that this library writes, the oldest first."""
        found = [
            (int(match[1]), int(match[2]), path)
            for path in self.folder.glob("events.out.tfevents.*")
            if (match := EVENTS.fullmatch(path.name))
        ]
        return [path for *_, path in sorted(found)]

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._files())

    def _events(self) -> Iterator[Any]:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

        for path in self._files():
            yield from LegacyEventFileLoader(str(path)).Load()

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        if not self.thinning.takes():
            return
        super().write(key_values, key_excluded, step)
        if (size := self._size()) > self.thinning.limit:
            self._thin(size)

    def _thin(self, size: int) -> None:
        """Take events out of all files, into the first one."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.close()
        steps = (event.step for event in self._events() if event.HasField("summary"))
        stay = self.thinning.thin(self.folder / "events.*", size, steps)
        if stay is not None:
            first, *others = self._files()
            with files.replacing_file(first) as new, open(new, "xb") as file:
                writer = RecordWriter(file)
                for event in self._events():
                    if not event.HasField("summary") or event.step in stay:
                        writer.write(event.SerializeToString())
            for path in others:
                path.unlink()
        self._open(None)
