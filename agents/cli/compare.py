"""``compare``: train several algorithms on several seeds, and say which of them differ."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from agents.cli.errors import ENDINGS, checking_options, exit_code, in_words
from agents.cli.options import (
    AGENTS,
    Train,
    check_options,
    run_presets,
    task_defaults,
    with_absolute_paths,
)
from agents.cli.reach import Reach, load_reach
from agents.cli.report import print_comparison
from agents.cli.train import draw, run, settings_of
from agents.plots import comparison, read_progress
from agents.progress import console
from agents.runs import RunFolder, Signals
from agents.runs.recorder import SAVE_EVERY


@dataclass
class Compare:
    """Train several algorithms on several seeds with equal tokens, and say which differ."""

    agents: list[str] = field(default_factory=lambda: list(AGENTS))
    """The algorithms; each uses its own presets."""
    seeds: int = 5
    """Seeds 0, 1, 2, ..."""
    model: str = "bundled"
    """As for train."""
    env: str = "TextGen-v0"
    """The task, as for train; its prompts, reward and budget are then the defaults."""
    reward: str = "sentiment"
    """As for train."""
    prompts: str = "bundled"
    """As for train."""
    chat: bool = False
    """As for train."""
    total_timesteps: int | None = None
    """Tokens of each run; by default as for train."""
    kl_coef: float | None = None
    """β, the cost of a nat of KL, in the rewards and in the returns by which all are judged; by
    default as for train."""
    reference_episodes: int | None = None
    """As for train."""
    max_new_tokens: int = 24
    """Token budget of a response."""
    stop: list[str] = field(default_factory=list)
    """Stop strings, in addition to the end-of-sequence token."""
    n_envs: int | None = None
    """Episodes per rollout; by default as for train."""
    eval_episodes: int = 512
    """Episodes of the evaluations before and after."""
    output: Path = Path("runs/compare")
    """Folder for all runs and the plot. Runs that are finished there are not repeated."""
    overwrite: bool = False
    """Repeat runs that are there, also those with other settings."""
    save_every: str = SAVE_EVERY
    """As for train."""
    eval_prompts: str | None = None
    """As for train."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """As for train."""


def main(arguments: list[str]) -> None:
    """Train each algorithm on each seed; print a table and draw a plot.

    Runs in the output folder that are finished are not repeated, and those that are not go on.
    """
    with checking_options():
        defaults = Compare(**task_defaults(arguments))
        options = tyro.cli(
            Compare, args=arguments, default=defaults, prog="python -m agents compare"
        )
        check_options(with_absolute_paths(options), options.agents)
        if not options.agents:
            raise ValueError(f"--agents must name some of {', '.join(AGENTS)}.")
    names = [(name, seed) for seed in range(options.seeds) for name in options.agents]
    reach: Reach | None = None  # the task is the same in all runs
    folders: list[RunFolder] = []
    with Signals() as signals:
        try:
            for name, seed in names:
                _check_folder(options, name, seed)  # all, before the first run takes its time
            for number, (name, seed) in enumerate(names, 1):
                title = f"run {number} of {len(names)}"
                folder, reach = _finished_run(options, name, seed, reach, signals, title)
                folders.append(folder)
            _report(options, names, folders, reach or Reach())
        except ENDINGS as error:
            sys.exit(_end_early(options, error, len(folders) + 1, len(names)))


def _report(
    options: Compare,
    names: list[tuple[str, int]],
    folders: list[RunFolder],
    reach: Reach,
) -> None:
    """Print the table and draw the plot of finished runs."""
    runs: dict[str, list] = {name: [] for name in options.agents}
    finals: dict[str, list[dict[str, float]]] = {name: [] for name in options.agents}
    for (name, _), folder in zip(names, folders, strict=True):
        after = folder.evaluations()["after"]
        means = {key: after[key]["mean"] for key in ("score", "kl", "length")}
        finals[name].append(means | {"distinct_2": after["distinct_2"]})
        runs[name].append(read_progress(folder.progress))
    print_comparison(finals, reach.evaluation)
    pairs = {name: [(final["kl"], final["score"]) for final in finals[name]] for name in finals}
    title = f"{options.model}, reward {options.reward}, {options.seeds} seeds"
    plot = options.output / "comparison.png"
    comparison(runs, pairs, reach.evaluation, plot, title, reach.learning)
    console.print(f"\nplot   {plot}")


def _check_folder(options: Compare, name: str, seed: int) -> None:
    """Raise an error if a run's folder holds something that must not be mixed or replaced.

    Raises:
        FileExistsError: it holds no run, or one of other settings.
    """
    folder = RunFolder(options.output / f"{name}-{seed}")
    if folder.is_run() and not options.overwrite:
        one, hyperparameters = _settings_of_run(options, name, seed)
        wanted = json.loads(json.dumps(settings_of(one, hyperparameters), default=str))
        _check_same(folder, folder.settings(), wanted)
    elif not folder.is_run() and folder.path.is_dir():
        if any(not path.name.startswith(".") for path in folder.path.iterdir()):
            raise FileExistsError(
                f"The folder {str(folder.path)!r} is not empty and holds no run that can be read: "
                "remove it, or choose another --output."
            )


def _finished_run(
    options: Compare,
    name: str,
    seed: int,
    reach: Reach | None,
    signals: Signals,
    title: str,
) -> tuple[RunFolder, Reach | None]:
    """The folder of a run that is finished: one of an earlier call, or made now."""
    one, hyperparameters = _settings_of_run(options, name, seed)
    folder = RunFolder(options.output / f"{name}-{seed}")
    if options.overwrite or not folder.is_run():
        folder = RunFolder.create(folder.path, options.overwrite)
    elif not folder.finished:
        folder.lock()
    try:
        if not folder.finished:
            console.print(f"\n[bold]{title}[/]")
            reach = run(one, hyperparameters, folder, reach, signals).reach
            draw(one, folder, reach.learning)
        elif reach is None and folder.reference_scores.is_file():
            reach = load_reach(folder)
    finally:
        folder.unlock()
    return folder, reach


def _check_same(folder: RunFolder, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise an error if the run in a folder has other settings.

    Raises:
        FileExistsError: the message names a setting that differs.
    """
    for part, values in wanted.items():
        others = found.get(part, {})
        for name in sorted({*values, *others}):
            if values.get(name) != others.get(name):
                raise FileExistsError(
                    f"The run in {str(folder.path)!r} has {name}={others.get(name)!r}, not "
                    f"{values.get(name)!r}: choose another --output, or replace it with "
                    "--overwrite."
                )


def _end_early(options: Compare, error: BaseException, number: int, count: int) -> int:
    """Say what ended the comparison, and how to go on; returns the exit code."""
    console.print(in_words(error), soft_wrap=True, markup=False)
    if not isinstance(error, FileExistsError):
        without = " without --overwrite" if options.overwrite else ""
        console.print(
            f"It was run {number} of {count}. The same command{without} goes on: finished runs are "
            "not repeated.",
            soft_wrap=True,
        )
    return exit_code(error)


def _settings_of_run(options: Compare, name: str, seed: int) -> tuple[Train, dict[str, Any]]:
    preset, hyperparameters = run_presets(name, options.model)
    chosen = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(Train)
        if getattr(options, field.name, None) is not None
    }
    return Train(**{**preset, **chosen, "agent": name, "seed": seed}), hyperparameters
