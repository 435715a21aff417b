"""What the user is told about an error that is none of this program."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents import distributed, files
from agents.runs import Interrupted
from agents.runs.recorder import parse_interval
from agents.training.device import find_device
from textenv.arguments import ranges_of
from textenv.rewards import RewardError
from textenv.shown import message

# What ends a run, and leaves what it has reached on the disk.
ENDINGS = (
    Interrupted, RewardError, OSError, files.DamagedFile, FloatingPointError,
    distributed.ProcessLost,
)  # fmt: skip

# What a wrong option leads to, before anything is learned or measured.
REFUSALS = (ValueError, TypeError, OSError, ModuleNotFoundError)


@contextmanager
def checking_options() -> Iterator[None]:
    """Within it options are read and used for the first time: an error is one of the user."""
    try:
        yield
    except REFUSALS as error:
        sys.exit(in_words(error))


def check_options(options: Any) -> None:
    """Raise an error that names an option which is out of its range, its value and the range."""
    cls: Any = type(options)
    for name, allowed in ranges_of(cls).items():
        if (value := getattr(options, name)) not in allowed:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be {allowed}.")
    if hasattr(options, "save_every"):
        parse_interval(options.save_every)
    find_device(options.device)


def in_words(error: BaseException) -> str:
    """One sentence that may be shown; for a reward of the user's own also the line that failed."""
    return message(_in_words(error))


def _in_words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"ended by {error if isinstance(error, Interrupted) else 'SIGINT'}"
    if isinstance(error, OSError):
        return files.in_words(error)
    if isinstance(error, RewardError) and error.__cause__ is not None:
        frames = traceback.extract_tb(error.__cause__.__traceback__)
        if frames:
            last = frames[-1]
            return f"{error}\n  {Path(last.filename).name}, line {last.lineno}: {last.line}"
    return str(error)


def exit_code(error: BaseException) -> int:
    """128 + its number for a signal, as shells expect it; else 1."""
    if isinstance(error, KeyboardInterrupt):
        return error.exit_code if isinstance(error, Interrupted) else 130
    return 1
