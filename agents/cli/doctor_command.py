"""``doctor``: read what runs have logged, and name their problems."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.text import Text

from agents import files
from agents.cli.errors import in_words
from agents.cli.parsing import read_options
from agents.reports.diagnosis import Diagnosis, diagnose
from agents.reports.gathering import algorithm_of, runs_of
from agents.reports.run_numbers import RunNumbers
from agents.runs import RunFolder
from agents.runs.log import STEP
from agents.runs.options import RunOptions
from agents.training.console import complain, console, text_of

HEALTHY, FINDINGS, UNREADABLE = 0, 1, 2  # exit codes, as linters have them


@dataclass
class Doctor:
    """Read what runs have logged, and name their problems, each with the option to change.

    Nothing is trained or sampled, so that a run can be read while it goes on. The exit code is 0 if
    all runs are healthy, 1 if there are findings, 2 if a run cannot be read.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or of a comparison, whose runs are read that have learned."""


def main(arguments: list[str]) -> None:
    """Diagnose runs, and end with the exit code of a linter."""
    options = read_options(Doctor, arguments, "doctor")
    if not options.runs:
        print("Name at least one folder of a run.", file=sys.stderr)
        sys.exit(UNREADABLE)
    try:
        paths = runs_of(options.runs)
    except FileNotFoundError as error:
        complain(in_words(error))
        sys.exit(UNREADABLE)
    codes = []
    for path in paths:
        try:
            record, settings = RunNumbers.read(path), RunFolder(path).settings()
        except (OSError, ValueError, KeyError) as error:  # missing, or damaged
            said = isinstance(error, OSError | files.DamagedFile)
            sentence = in_words(error) if said else f"damaged: {error}"
            complain(f"{path}: {sentence}")
            codes.append(UNREADABLE)
            continue
        diagnosis = diagnose(record)
        print_diagnosis(path, describe(record, settings), diagnosis)
        codes.append(FINDINGS if diagnosis.findings else HEALTHY)
    sys.exit(max(codes))


def describe(record: RunNumbers, settings: dict[str, Any]) -> str:
    """What was trained on what, for how long, in one line."""
    tokens = record.column(STEP)
    parts = [
        algorithm_of(settings) or "?",
        task if (task := (settings.get("task") or {}).get("id")) != RunOptions.env else "",
        f"reward {record.task['reward']}" if isinstance(record.task.get("reward"), str) else "",
        f"seed {record.hyperparameters.get('seed')}",
        f"{len(tokens)} rollouts, {tokens[-1]:,.0f} {'tokens' if record.is_text else 'steps'}",
    ]
    return ", ".join(part for part in parts if part)


def print_diagnosis(path: Path, description: str, diagnosis: Diagnosis) -> None:
    """The findings of a run, one sentence each, and what was looked at."""
    console.say((path, "bold"), "  ", (description, "dim"))
    for finding in diagnosis.findings:
        sentence = text_of((finding.name, "bold"), f": {finding.sentence}")
        print_hanging("✗ ", sentence, "red")
    if not diagnosis.findings:
        console.say(("✓", "green"), " No problem was found.")
    for label, names in (("not found", diagnosis.passed), ("not looked at", diagnosis.skipped)):
        if names:
            print_hanging("  ", Text(f"{label}: {', '.join(names)}", "dim"))


def print_hanging(mark: str, text: Text, style: str = "") -> None:
    """A mark, and a text beside it in as many lines as it needs."""
    for number, line in enumerate(text.wrap(console, console.width - len(mark))):
        line.rstrip()
        console.print(Text(" " * len(mark) if number else mark, style) + line)
