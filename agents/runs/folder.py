"""The folder of a run: what is in it, and who may write there.

What a run logs, completions.jsonl, progress.csv and events.*, has at most 50 MB together: when a
file has reached its share, every second rollout is taken out of it, and so on.

settings.json           every option, the task, seed, versions, commit, threads, processes
progress.csv, events.*  metrics of each rollout, as a table and for TensorBoard
completions.jsonl       some episodes of each rollout: step, prompt, response, score and its parts,
                        kl (nats), length (tokens), finish_reason
checkpoints/newest      the agent and all that learning needs to go on exactly
checkpoints/best        the same, of the checkpoint whose last rollout had the highest return
agent/                  the agent at the end; from_pretrained can open a language model there
reference_scores.json   scores of the untouched model: what can be reached in the evaluations
learning_reference_scores.json   the same on the prompts of the learning, if these are others
episodes_before.jsonl, episodes_after.jsonl    the episodes of both evaluations
evaluation.json         mean, standard error and count of each measure, before and after;
                        written last: a run is finished when it has "after"
learning_curve.png      the plot
report.html             the page of `python -m agents report`
"""

import errno
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

from agents import distributed, files
from agents.saving.agent_folder import DESCRIPTION, IN_A_RUN, check_task, find
from textenv.arguments import as_path
from textenv.lm import products

LOCK = ".lock"
# What settings.json may hold, with the types of its values, and those of some hyper-parameters.
SETTINGS = {
    "versions": dict, "options": dict, "chosen": dict, "comparison": dict, "algorithm": str,
    "policy": str, "policy_kwargs": dict, "hyperparameters": dict, "task": dict | None,
    "n_envs": int,
}  # fmt: skip
OF_HYPERPARAMETERS = dict.fromkeys(("n_steps", "batch_size", "n_epochs"), int | None)
PACKAGES = ("textenv", "torch", "transformers", "gymnasium", "stable-baselines3", "numpy")


class RunFolder:
    """The paths of a run's files, in a folder that need not exist, and the right to write them."""

    def __init__(self, path: str | Path):
        self.path = as_path(path)
        self.settings_file = self.path / "settings.json"
        self.progress = self.path / "progress.csv"
        self.completions = self.path / "completions.jsonl"
        self.newest, self.agent = (self.path / place for place in IN_A_RUN)
        self.best = self.newest.with_name("best")
        self.reference_scores = self.path / "reference_scores.json"
        self.learning_reference_scores = self.path / "learning_reference_scores.json"
        self.evaluation = self.path / "evaluation.json"
        self.plot = self.path / "learning_curve.png"
        self.page = self.path / "report.html"
        self._lock: FileLock | None = None
        self._is_new = False  # whether `create` has made it
        self._made: list[Path] = []  # folders that `create` has made, the innermost first

    def episodes(self, when: str) -> Path:
        """The file with the episodes of the evaluation "before" or "after"."""
        return self.path / f"episodes_{when}.jsonl"

    # --- who may write ----------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False) -> Self:
        """A folder for a new run, locked for this process; missing parents are made.

        ``overwrite`` removes a run that is there. A FileExistsError says that there is a run, or
        anything else, that may not be removed, a BlockingIOError that another process is writing.
        """
        run = cls(path)
        run._made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
        run.path.mkdir(parents=True, exist_ok=True)
        run.lock()
        if run.is_run() and not overwrite:
            run.unlock()
            raise FileExistsError(
                f"There is a run in {str(path)!r} already: continue it with resume=True, replace "
                "it with overwrite=True, or choose another folder."
            )
        if not run.is_run() and any(not p.name.startswith(".") for p in run.path.iterdir()):
            run.unlock()
            raise FileExistsError(
                f"The folder {str(path)!r} is not empty and holds no run: choose another one."
            )
        run.clear()
        run._is_new = True
        return run

    @classmethod
    def numbered(cls, path: Path) -> Self:
        """A folder for a new run: ``path``, or ``path-2``, ``path-3``, ... if that is in use."""
        number, candidate = 1, path
        while True:
            try:
                return cls.create(candidate)
            except (FileExistsError, BlockingIOError):
                number += 1
                candidate = path.with_name(f"{path.name}-{number}")

    def lock(self) -> None:
        """Let no other process write here, until this one ends or calls `unlock`; BlockingIOError
        if another one is writing, FileExistsError if a part of the run is a link."""
        if not self.path.is_dir():
            raise FileNotFoundError(f"There is no run in {str(self.path)!r}: check the path.")
        self.check_links()
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise BlockingIOError(
                errno.EAGAIN, "Another process is writing this run", str(self.path)
            ) from None
        self._lock = lock

    def check_links(self) -> None:
        """Raise a FileExistsError if a part of the run is a link: nothing is written elsewhere."""
        files.check_no_links(self.path / LOCK, self.best, *self._parts())

    def unlock(self) -> None:
        """Let other processes write here. What was made for a run that never began, or that an
        error has ended before it had measured anything, is removed."""
        if self._lock is None:
            return
        if self._is_new and sys.exception() is not None and not self.has_begun:
            self.clear()
        if [path.name for path in self.path.iterdir()] == [LOCK]:
            (self.path / LOCK).unlink()
            with suppress(OSError):  # until one holds something else
                for folder in self._made:
                    folder.rmdir()
        self._lock.release()
        self._lock = None

    def clear(self) -> None:
        """Remove the run, and nothing else that is in the folder."""
        if not self.is_run():
            return
        # What says that the run is finished goes first, what says that there is one goes last.
        for path in self._parts():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        """All files and folders of the run, in the order in which they are removed."""
        return [
            self.evaluation, self.newest.parent, self.newest, self.agent, self.progress,
            self.completions, self.reference_scores, self.learning_reference_scores,
            self.episodes("before"), self.episodes("after"), self.plot, self.page,
            *self.path.glob("events.out.tfevents.*"), self.settings_file,
        ]  # fmt: skip

    # --- what it says -----------------------------------------------------------------------

    def is_run(self) -> bool:
        """Whether a run has begun here: its settings are written first and removed last."""
        try:
            return "versions" in self.settings()
        except (OSError, files.DamagedFile):
            return False

    @property
    def has_begun(self) -> bool:
        """Whether something has been measured or learned that a run could go on with."""
        found = (
            self.newest, self.agent, self.evaluation, self.reference_scores,
            self.learning_reference_scores,
        )  # fmt: skip
        return any(path.exists() for path in found)

    def settings(self) -> dict[str, Any]:
        """The content of ``settings.json``; FileNotFoundError if there is no run in the folder,
        `DamagedFile` if it cannot be read."""
        if not self.settings_file.exists():
            raise FileNotFoundError(
                f"There is no run in {str(self.path)!r}: settings.json is missing."
            )
        settings = files.read_json(self.settings_file, {}, SETTINGS)
        with files.reading(self.settings_file):
            for name, kind in OF_HYPERPARAMETERS.items():
                files.check_kind(name, settings.get("hyperparameters", {}).get(name), kind)
            check_task(settings.get("task"))
        return settings

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write ``settings.json``, with what else a number may depend on."""
        files.write_json(self.settings_file, settings | surroundings())

    def change_settings(self, settings: dict[str, Any]) -> None:
        """Change entries of ``settings.json``; the others stay as they were at the beginning."""
        before = self.settings()
        if any(before.get(name) != value for name, value in settings.items()):
            files.write_json(self.settings_file, before | settings)

    def evaluations(self) -> dict[str, Any]:
        """The content of ``evaluation.json``; empty if there is none, `DamagedFile` if it cannot be
        read."""
        if not self.evaluation.exists():
            return {}
        found = files.read_json(self.evaluation, {}, {"before": dict, "after": dict})
        with files.reading(self.evaluation):
            for summary in found.values():
                for name, value in summary.items():
                    if isinstance(value, dict):
                        files.check_kind(f"the mean of {name}", value["mean"], int | float)
                        error = value["standard_error"]
                        files.check_kind(f"the error of {name}", error, int | float | None)
                    else:
                        files.check_kind(name, value, int | float | None)
        return found

    def unfinish(self) -> None:
        """Forget the evaluation "after", because the run goes on."""
        evaluations = self.evaluations()
        if evaluations.pop("after", None) is not None:
            files.write_json(self.evaluation, evaluations)

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end and was evaluated."""
        try:
            return "after" in self.evaluations()
        except files.DamagedFile:
            return False

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint can be resumed."""
        return (find(self.newest) / DESCRIPTION).is_file()


def surroundings() -> dict[str, Any]:
    """Versions, the commit of the package if there is one, threads, processes, and the machine."""

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "versions": {"python": platform.python_version(), **{n: version(n) for n in PACKAGES}},
        "commit": _commit(),
        "threads": torch.get_num_threads(),
        "products": products.way(),
        "processes": distributed.process_count(),
        "machine": platform.platform(),
    }


def _commit() -> str | None:
    """The commit of this package's source, with "-dirty" if files have changed since."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
