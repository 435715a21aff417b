"""``compare``: several candidates on several seeds and tasks, and which of them differ."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import tyro

from agents.agent import Agent
from agents.cli.compared import Job, finish
from agents.cli.errors import ENDINGS, checking_options, exit_code, in_words
from agents.cli.names import AGENTS, Candidate, parse_candidate
from agents.cli.options import (
    NOT_OFFERED,
    Train,
    check_options,
    run_presets,
    values_of,
    with_absolute_paths,
)
from agents.cli.printing import print_comparison
from agents.cli.reach import Reach
from agents.cli.tasks import defaults_of
from agents.evaluation.candidates import UNTRAINED
from agents.evaluation.comparison import Comparison
from agents.evaluation.statistics import interval
from agents.reports.plots import comparison, read_progress
from agents.runs import RunFolder, Signals
from agents.runs.recorder import SAVE_EVERY
from agents.training import presets
from agents.training.progress import console
from textenv.arguments import Range, check_ranges

# Arguments of stable-baselines3 that the run itself gives.
OF_SB3_RUN = {*NOT_OFFERED, "policy", "env", "_init_setup_model"} - {"n_steps", "policy_kwargs"}
OF_POLICY = ("critic_layers", "lora", "temperature")  # arguments of a policy that runs have
DEFAULT = (*AGENTS, "sb3:PPO", "untouched", "greedy", "best-of-4", "best-of-16")


@dataclass
class Compare:
    """Train several algorithms on several seeds with equal tokens, and say which differ."""

    agents: list[str] = field(default_factory=lambda: list(DEFAULT))
    """Algorithms, each with its own presets or with others ("ppo(n_epochs=2)"); classes
    ("sb3:PPO" of stable-baselines3, "module:Class" of your own); and what needs no training:
    untouched, greedy, random, best-of-N."""
    seeds: Annotated[int, Range(2)] = 5
    """Seeds 0, 1, 2, ..."""
    until_decided: float | None = None
    """Add seeds to those whose 95 % interval of the mean return is wider than this to either side,
    as long as there are; intervals that end such a search are a little too narrow."""
    max_seeds: int = 20
    """At most this number of seeds for --until-decided."""
    model: str = "bundled"
    """As for train."""
    env: list[str] = field(default_factory=lambda: [Train.env])
    """The tasks, as for train; prompts, reward and budget of each are then its defaults."""
    reward: str = "sentiment"
    """As for train."""
    prompts: str = "bundled"
    """As for train."""
    chat: bool = False
    """As for train."""
    total_timesteps: Annotated[int, Range(1)] = 30_000
    """Tokens of each run."""
    kl_coef: Annotated[float | None, Range(0)] = None
    """β, the cost of a nat of KL, in the rewards and in the returns by which all are judged; by
    default as for train."""
    reference_episodes: Annotated[int | None, Range(0)] = None
    """As for train."""
    max_new_tokens: Annotated[int, Range(1)] = 24
    """Token budget of a response."""
    stop: list[str] = field(default_factory=list)
    """Stop strings, in addition to the end-of-sequence token."""
    n_envs: int | None = None
    """Episodes per rollout; by default as for train."""
    eval_episodes: Annotated[int | None, Range(1)] = None
    """Episodes of the evaluations before and after; by default as for train."""
    output: Path = Path("runs/compare")
    """Folder for all runs, tables and plots. Runs that are finished there are not repeated."""
    save: bool = True
    """Without it (--no-save) nothing is kept but what is printed."""
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
    """Train what learns, evaluate everything; print tables, and write them and a plot.

    Runs in the output folder that are finished are not repeated, and those that are not go on.
    """
    with checking_options():
        envs = dict.fromkeys(values_of(arguments, "--env") or [Train.env])
        tasks = [_parse(arguments, env) for env in envs]
        options = tasks[0]
        candidates = [parse_candidate(text) for text in options.agents]
        _check(options, candidates)
    with Signals() as signals, _output(options) as output:
        runner = Runner(options, signals)
        try:
            with checking_options():
                plan = [
                    _job(task, candidate, seed, output / task.env[0] if tasks[1:] else output)
                    for task in tasks
                    for seed in range(options.seeds)
                    for candidate in candidates
                ]
            for job in plan:  # all, before the first one takes its time
                job.check_folder(options.overwrite)
            if options.overwrite:  # all at once, so that what is there later is only what is new
                for job in plan:
                    RunFolder.create(job.folder, overwrite=True).unlock()
            runner.finish(plan)
            while more := runner.undecided(options):
                runner.finish(more)
            runner.report(output)
        except ENDINGS as error:
            sys.exit(runner.end_early(error))


class Runner:
    """Finishes runs one after the other, and reports them.

    Args:
        options: of the comparison.
        signals: which signals wait for the end of an update.
    """

    def __init__(self, options: Compare, signals: Signals):
        self.options, self.signals = options, signals
        self.planned: list[Job] = []
        self.finished: list[Job] = []
        self.reach: dict[str, Reach | None] = {}  # of each task, the same in all its runs

    def finish(self, jobs: list[Job]) -> None:
        """Finish further runs."""
        self.planned += jobs
        for job in jobs:
            number, task = len(self.finished) + 1, job.options.env
            title = f"run {number} of {len(self.planned)}: {job.candidate.label}"
            self.reach[task] = finish(job, self.reach.get(task), self.signals, title)
            self.finished.append(job)

    def comparison(self) -> Comparison:
        """What is finished so far."""
        reach = {task: None if r is None else r.evaluation for task, r in self.reach.items()}
        return Comparison([job.result() for job in self.finished], reach)

    def undecided(self, options: Compare) -> list[Job]:
        """One more seed of each candidate whose interval is too wide; nothing when all is said."""
        if options.until_decided is None:
            return []
        found, more = self.comparison(), []
        for task in dict.fromkeys(job.options.env for job in self.finished):
            for label, returns in found.returns(task).items():
                wide = interval(returns).half_width > options.until_decided
                if wide and len(returns) < options.max_seeds:
                    first = next(
                        job for job in self.finished
                        if (job.options.env, job.candidate.label) == (task, label)
                    )  # fmt: skip
                    more.append(first.on_seed(len(returns)))
        for job in more:
            job.check_folder(options.overwrite)
        return more

    def report(self, output: Path) -> None:
        """Print the tables, draw the plots, and write both unless nothing is to be kept."""
        found = self.comparison()
        for task in dict.fromkeys(job.options.env for job in self.finished):
            if len(self.reach) > 1:
                console.print(f"\n[bold]{task}[/]")
            print_comparison(found, task)
            if self.options.save:
                self._draw(task, output)
        if self.options.save:
            found.save(output)
            console.print(
                f"tables {output / 'summary.csv'}, runs.csv, differences.csv, comparison.json and "
                "the episodes",
                soft_wrap=True,
            )

    def _draw(self, task: str, output: Path) -> None:
        """The plot of a task: what learned, with the curves of its runs."""
        logs: dict[str, list] = {}
        ends: dict[str, list[tuple[float, float]]] = {}
        jobs = [job for job in self.finished if job.options.env == task]
        for job in jobs:
            if not isinstance(job.candidate.what, UNTRAINED):
                row = job.result().columns()
                ends.setdefault(job.candidate.label, []).append((row["kl"], row["score"]))
                log = read_progress(RunFolder(job.folder).progress)
                logs.setdefault(job.candidate.label, []).append(log)
        if not logs:
            return
        reach = self.reach[task] or Reach()
        name = "comparison.png" if len(self.reach) == 1 else f"comparison-{task}.png"
        one = jobs[0].options
        title = f"{one.model}, reward {one.reward}, {self.options.seeds} seeds"
        comparison(logs, ends, reach.evaluation, output / name, title, reach.learning)
        console.print(f"\nplot   {output / name}", soft_wrap=True)

    def end_early(self, error: BaseException) -> int:
        """Say what ended the comparison, and how to go on; returns the exit code."""
        console.print(in_words(error), soft_wrap=True, markup=False)
        if not isinstance(error, FileExistsError) and self.options.save:
            without = " without --overwrite" if self.options.overwrite else ""
            console.print(
                f"It was run {len(self.finished) + 1} of {len(self.planned)}. The same command"
                f"{without} goes on: finished runs are not repeated.",
                soft_wrap=True,
            )
        return exit_code(error)


@contextmanager
def _output(options: Compare) -> Iterator[Path]:
    """The folder of the runs; a temporary one if nothing is to be kept."""
    if options.save:
        yield options.output
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)


def _parse(arguments: list[str], env: str) -> Compare:
    """The options of one of the tasks."""
    defaults: Any = {**defaults_of(env), "env": [env]}
    options = tyro.cli(
        Compare, args=arguments, default=Compare(**defaults), prog="python -m agents compare"
    )
    return with_absolute_paths(dataclasses.replace(options, env=[env]))


def _check(options: Compare, candidates: list[Candidate]) -> None:
    """Raise an error for options that do not fit.

    Raises:
        ValueError: the message says which one.
    """
    check_options(options)
    if not candidates:
        raise ValueError(f"--agents must name some of {', '.join(DEFAULT)}.")
    folders = [candidate.folder for candidate in candidates]
    for candidate in candidates:
        if folders.count(candidate.folder) > 1:
            raise ValueError(f"--agents names {candidate.label!r} twice.")
        if isinstance(candidate.what, type) and issubclass(candidate.what, Agent):
            check_ranges(candidate.what, candidate.arguments)


def _job(task: Compare, candidate: Candidate, seed: int, output: Path) -> Job:
    """The run of a candidate: presets, then the options of the comparison, then its arguments.

    Raises:
        ValueError: it has no such hyper-parameter.
    """
    of_run = {field.name for field in dataclasses.fields(Train)}
    given = {
        name: value for name, value in vars(task).items() if name in of_run and value is not None
    }
    given |= {"agent": candidate.name, "env": task.env[0], "seed": seed}
    preset, hyperparameters = presets.training(task.model), dict[str, Any]()
    what, arguments, known = candidate.what, dict(candidate.arguments), set[str]()
    if isinstance(what, type) and issubclass(what, Agent):
        preset, hyperparameters = run_presets(candidate.name, task.model, arguments.get("lora"))
        known = {*hyperparameters, *OF_POLICY, *inspect.signature(what).parameters}
        known -= NOT_OFFERED | {"policy", "env", "common"}
    elif isinstance(what, type):
        budget = given["max_new_tokens"]
        hyperparameters = presets.stable_baselines3(what.__name__, task.model, budget)
        known = {*inspect.signature(what).parameters, "lr_schedule"} - OF_SB3_RUN
        preset = {**preset, "n_envs": hyperparameters.pop("n_envs")}
    for name in arguments.keys() - known - {"n_envs"}:
        raise ValueError(
            f"--agents {candidate.label!r}: {candidate.name} has no hyper-parameter {name}; it has "
            f"{', '.join(sorted(known))}."
        )
    of_options = {name: arguments.pop(name) for name in arguments.keys() & of_run}
    options = Train(**{**preset, **given, **of_options})
    folder = output / f"{candidate.folder}-{seed}"
    return Job(candidate, options, {**hyperparameters, **arguments}, folder)
