"""What a report shows of runs, read from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.evaluation import TextEvaluation
from agents.evaluation.optimum import Attainable
from agents.evaluation.traces import TracedEpisode
from agents.reports.diagnosis import Diagnosis, diagnose
from agents.reports.run_numbers import RunNumbers
from agents.runs import RunFolder


@dataclass
class ReportedRun:
    """A run of a report.

    Attributes:
        name: differs from those of the other runs.
        settings: the content of ``settings.json``.
        record: the log.
        diagnosis: its problems.
        before, after: the evaluations; None where they are missing.
        reach: the optimum and best-of-n on the prompts of the evaluations; None if not measured.
        learning_reach: the same on the prompts of the learning.
        episodes: sampled from the agent as it is now.
        note: why there are no such episodes.
    """

    name: str
    settings: dict[str, Any]
    record: RunNumbers
    diagnosis: Diagnosis
    before: TextEvaluation | None = None
    after: TextEvaluation | None = None
    reach: Attainable | None = None
    learning_reach: Attainable | None = None
    episodes: list[TracedEpisode] = field(default_factory=list)
    note: str = ""


def read_runs(paths: Sequence[Path]) -> list[ReportedRun]:
    """Read the folders of runs.

    Raises:
        FileNotFoundError: one holds no run, or no rollout was logged there.
    """
    names = [path.resolve().name for path in paths]
    unique = len(set(names)) == len(names)
    return [
        read_run(path, name if unique else str(path))
        for path, name in zip(paths, names, strict=True)
    ]


def read_run(path: Path, name: str) -> ReportedRun:
    """Read one run.

    Raises:
        FileNotFoundError: there is none, or no rollout was logged.
    """
    folder, record = RunFolder(path), RunNumbers.read(path)
    evaluations = {
        when: TextEvaluation.load(folder.episodes(when), summary)
        for when, summary in folder.evaluations().items()
        if folder.episodes(when).is_file()
    }
    reach = known(folder.reference_scores)
    return ReportedRun(
        name,
        folder.settings(),
        record,
        diagnose(record),
        evaluations.get("before"),
        evaluations.get("after"),
        reach,
        known(folder.learning_reference_scores) or reach,
    )


def known(file: Path) -> Attainable | None:
    """What can be reached, if it was measured."""
    return Attainable.load(file) if file.is_file() else None


def common_reach(runs: Sequence[ReportedRun]) -> Attainable | None:
    """What can be reached in the learning of all runs; None if their tasks differ.

    Runs of one task have their own samples of the same model, so that those of the first run serve.
    """
    tasks = [
        {name: run.record.task.get(name) for name in ("reward", "prompts", "kl_coef", "reference",
                                                      "max_new_tokens", "stop")}
        for run in runs
    ]  # fmt: skip
    same = all(task == tasks[0] for task in tasks)
    return runs[0].learning_reach if same else None
