"""What a report shows of runs, read from their folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.evaluation import TextEvaluation
from agents.evaluation.optimum import Attainable
from agents.evaluation.traces import TracedEpisode
from agents.reports.diagnosis import Diagnosis, diagnose
from agents.reports.run_numbers import RunNumbers
from agents.runs import RunFolder
from agents.runs.train import stored_attainable


@dataclass
class ReportedRun:
    """A run of a report."""

    name: str  # differs from those of the other runs
    settings: dict[str, Any]  # the content of ``settings.json``
    record: RunNumbers
    diagnosis: Diagnosis
    before: TextEvaluation | None = None
    after: TextEvaluation | None = None
    reach: Attainable | None = None  # on the prompts of the evaluations
    learning_reach: Attainable | None = None  # on the prompts of the learning
    episodes: list[TracedEpisode] = field(default_factory=list)  # of the agent as it is now
    note: str = ""  # why there are no such episodes


def runs_of(paths: Sequence[Path]) -> list[Path]:
    """The folders of runs: those that are given, and, where one is given that holds runs, as a
    comparison's does, each of them that has a log."""
    found = []
    for path in paths:
        inside = [] if RunFolder(path).is_run() else sorted([*path.glob("*/"), *path.glob("*/*/")])
        runs = [RunFolder(each) for each in inside if RunFolder(each).is_run()]
        learned = [run.path for run in runs if run.progress.is_file()]
        if runs and not learned:
            raise FileNotFoundError(f"None of the runs in {str(path)!r} has a log of its learning.")
        found += learned or [path]
    return found


def algorithm_of(settings: Mapping[str, Any]) -> str:
    """The algorithm of a run, from its settings, which for models of others name the candidate."""
    named = settings.get("comparison", {}).get("candidate", "")
    named = settings.get("options", {}).get("agent", named[0] if isinstance(named, list) else named)
    return str(settings.get("algorithm", named))


def is_kept(settings: Mapping[str, Any]) -> bool:
    """Whether a run keeps its agent, which models of others do not."""
    return "algorithm" in settings


def read_runs(paths: Sequence[Path]) -> list[ReportedRun]:
    """Read the folders of runs; FileNotFoundError if one holds no run that has logged a rollout."""
    names = [path.resolve().name for path in paths]
    unique = len(set(names)) == len(names)
    return [
        _read_run(path, name if unique else str(path))
        for path, name in zip(paths, names, strict=True)
    ]


def _read_run(path: Path, name: str) -> ReportedRun:
    folder, record = RunFolder(path), RunNumbers.read(path)
    evaluations = {
        when: TextEvaluation.load(folder.episodes(when), summary)
        for when, summary in folder.evaluations().items()
        if folder.episodes(when).is_file() and "score" in summary  # of text
    }
    return ReportedRun(
        name, folder.settings(), record, diagnose(record), evaluations.get("before"),
        evaluations.get("after"), *stored_attainable(folder),
    )  # fmt: skip


def common_reach(runs: Sequence[ReportedRun]) -> Attainable | None:
    """What can be reached in the learning of all runs; None if their tasks differ.

    Runs of one task have their own samples of the same model, so that those of the first run serve.
    """
    names = (
        "reward", "prompts", "kl_coef", "reference", "max_new_tokens", "stop", "respond",
        "max_turns",
    )  # fmt: skip
    tasks = [{name: run.record.task.get(name) for name in names} for run in runs]
    return runs[0].learning_reach if all(task == tasks[0] for task in tasks) else None
