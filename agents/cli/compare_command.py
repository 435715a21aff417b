"""``compare``: several candidates on several seeds and tasks, and which of them differ."""

import dataclasses
import inspect
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import stable_baselines3.common.logger as sb3_logger

from agents import algorithms
from agents.agent import Agent
from agents.algorithms import kebab_case
from agents.cli.errors import ENDINGS, check_options, checking_options, exit_code, in_words
from agents.cli.parsing import read_options, values_of
from agents.evaluation import evaluate_text
from agents.evaluation.candidates import UNTRAINED
from agents.evaluation.comparison import EVALUATION_SEED
from agents.evaluation.optimum import Known
from agents.evaluation.plots import across_tasks
from agents.evaluation.tables import print_aggregates, print_comparison
from agents.runs import RunFolder, Signals
from agents.runs.compare import (
    Comparing,
    Job,
    check_folders,
    folder_name,
    plot_file,
    write_result,
)
from agents.runs.helpers import helpers
from agents.runs.names import Candidate, parse_candidate
from agents.runs.options import (
    OPTIONS,
    RunOptions,
    TaskOptions,
    chosen_presets,
    defaults_of,
    offered_hyperparameters,
    with_absolute_paths,
)
from agents.runs.suites import SUITES
from agents.runs.train import (
    carry_out,
    find_attainable,
    make_agent,
    open_agent,
    paid_by,
    task_arguments,
    untouched,
)
from agents.sb3.models import text_model
from agents.training import presets
from agents.training.console import console, drawing
from textenv.arguments import Range, check_ranges
from textenv.lm.loading import hide_progress_bars

# Arguments of stable-baselines3 that the run itself gives.
OF_SB3_RUN = {
    "policy", "env", "_init_setup_model", "tensorboard_log", "verbose", "seed", "device"
}  # fmt: skip
OF_POLICY = ("critic_layers", "lora", "temperature")  # arguments of a policy that runs have
# What works in every task; lookahead, which needs one without replies, is asked for by its name.
LEARNING = (*map(kebab_case, algorithms.__all__), "sb3:PPO")
DEFAULT = (*LEARNING, "untouched", "greedy", "best-of-4", "best-of-16")


@dataclass
class Compare(TaskOptions):
    """Train several algorithms on several seeds with equal tokens, and say which differ."""

    agents: list[str] = field(default_factory=lambda: list(DEFAULT))
    """Algorithms, each with its own presets or with others ("ppo(n_epochs=2)"); classes
    ("sb3:PPO" of stable-baselines3, "module:Class" of your own); and what needs no training:
    untouched, greedy, random, best-of-N."""
    seeds: Annotated[int, Range(2)] = 5
    """Seeds 0, 1, 2, ..."""
    until_decided: Annotated[float | None, Range(above=0)] = None
    """Add seeds to those whose 95 % interval of the mean return is wider than this to either side,
    as long as there are; intervals that end such a search are a little too narrow."""
    max_seeds: Annotated[int, Range(1)] = 20
    """At most this number of seeds for --until-decided."""
    env: list[str] = field(default_factory=lambda: [RunOptions.env])
    """The tasks, as for train; prompts, reward and budget of each are then its defaults."""
    suite: Literal["small", "real"] | None = None
    """Tasks that ask for different things, each with its own --total-timesteps, on 3 seeds, and one
    number over all of them, instead of --env: for the bundled model, or for SmolLM2 with
    adapters."""
    total_timesteps: Annotated[int, Range(1)] = 30_000
    """Tokens of each run."""
    kl_coef: Annotated[float | None, Range(0)] = None
    """β, the cost of a nat of KL, in the rewards and in the returns by which all are judged; by
    default as for train."""
    reference_episodes: Annotated[int | None, Range(0)] = None
    """As for train."""
    n_envs: int | None = None
    """Episodes per rollout; by default as for train."""
    eval_episodes: Annotated[int | None, Range(1)] = None
    """Episodes of the evaluations before and after; by default as for train."""
    jobs: Annotated[int, Range(1)] = 1
    """Processes that share the runs and the processor's cores. The same command, started again,
    shares them as well."""
    output: Path = Path("runs/compare")
    """Folder for all runs, tables and plots. Runs that are finished there are not repeated."""
    save: bool = True
    """Without it (--no-save) nothing is kept but what is printed."""


def main(arguments: list[str]) -> None:
    """Train what learns, evaluate everything; print tables, and write them and a plot.

    Runs in the output folder that are finished are not repeated, and those that are not go on.
    """
    with checking_options():
        tasks = _tasks(arguments)
        options = tasks[0]
        candidates = [parse_candidate(text) for text in options.agents]
        _check(options, candidates)
    place = nullcontext(options.output) if options.save else TemporaryDirectory()
    with Signals() as signals, place as folder:
        output = Path(folder)
        comparing = Comparing(signals, lambda title: console.say("\n", (title, "bold")))
        try:
            with checking_options():
                plan = _plan(tasks, candidates, output)
                comparing.prepare(plan, options.overwrite)
            with helpers(options.jobs, _help, arguments, output):
                comparing.run(plan, options.until_decided, options.max_seeds, options.overwrite)
            _show(comparing, options, output)
        except ENDINGS as error:
            sys.exit(_end_early(comparing, options, error))


def _help(arguments: list[str], output: Path, part: float) -> None:
    """Make runs of the same command in a process beside it, beginning at another part of them."""
    with Signals() as signals:
        tasks = _tasks(arguments)
        plan = _plan(tasks, [parse_candidate(text) for text in tasks[0].agents], output)
        begin = int(part * len(plan))
        Comparing(signals, lambda title: None).run(plan[begin:] + plan[:begin])


def _tasks(arguments: list[str]) -> list[Compare]:
    """The options of each task."""
    suite, envs = values_of(arguments, "--suite"), values_of(arguments, "--env")
    if suite and suite[0] in SUITES:
        if envs:
            raise ValueError("--suite and --env are two ways to choose tasks: give one of them.")
        chosen = SUITES[suite[0]]
        common = {"agents": list(LEARNING), **chosen.options}
        budgets = chosen.tasks.items()
        return [_parse(arguments, env, {**common, "total_timesteps": n}) for env, n in budgets]
    if not envs and any(argument.split("=")[0] == "--env" for argument in arguments):
        raise ValueError("--env needs the ids of environments, such as --env Sentiment-v0.")
    return [_parse(arguments, env, {}) for env in dict.fromkeys(envs or [RunOptions.env])]


def _plan(tasks: list[Compare], candidates: list[Candidate], output: Path) -> list[Job]:
    """All runs; those of each of several tasks in a folder of their own."""
    return [
        _job(task, candidate, seed, output / task.env[0] if tasks[1:] else output)
        for task in tasks
        for seed in range(task.seeds)
        for candidate in candidates
    ]


def _show(comparing: Comparing, options: Compare, output: Path) -> None:
    """Print the tables, draw the plots, and write both unless nothing is to be kept."""
    found = comparing.comparison()
    for task in found.tasks:
        several = len(found.tasks) > 1
        if several:
            console.say("\n", (task, "bold"))
        print_comparison(found, task)
        target = plot_file(output, task, found.tasks)
        title = f"{options.model}, {paid_by(options.reward)}, {options.seeds} seeds"
        if options.save and comparing.draw(task, target, title):
            console.say(f"\nplot   {target}")
    print_aggregates(found)
    if options.save and found.normalised:
        target = output / "tasks.png"
        with drawing("plot"):
            across_tasks(found.normalised, found.tasks, target)
            console.say(f"\nplot   {target}")
    if options.save:
        found.save(output)
        console.say(
            f"tables {output / 'summary.csv'}, runs.csv, differences.csv, comparison.json and the "
            "episodes"
        )


def _end_early(comparing: Comparing, options: Compare, error: BaseException) -> int:
    """Say what ended the comparison, and how to go on; returns the exit code."""
    console.say(in_words(error))
    if not isinstance(error, FileExistsError) and options.save:
        without = " without --overwrite" if options.overwrite else ""
        done, planned = len(comparing.finished), len(comparing.planned)
        where = f"It was run {done + 1} of {planned}. " if done < planned else ""
        console.say(f"{where}The same command{without} goes on: finished runs are not repeated.")
    return exit_code(error)


def _parse(arguments: list[str], env: str, suited: dict[str, Any]) -> Compare:
    """The options of one of the tasks, of which some are ``suited`` to it."""
    defaults: Any = {**defaults_of(env), **suited, "env": [env]}
    options = read_options(Compare, arguments, "compare", default=Compare(**defaults))
    return with_absolute_paths(dataclasses.replace(options, env=[env]))


def _check(options: Compare, candidates: list[Candidate]) -> None:
    """Raise an error for options that do not fit."""
    check_options(options)
    if not candidates:
        raise ValueError(f"--agents must name some of {', '.join(DEFAULT)}.")
    check_folders([candidate.label for candidate in candidates], "--agents")
    for candidate in candidates:
        if isinstance(candidate.what, type) and issubclass(candidate.what, Agent):
            check_ranges(candidate.what, candidate.arguments)


def _job(task: Compare, candidate: Candidate, seed: int, output: Path) -> Job:
    """The run of a candidate: presets, then the options of the comparison, then its arguments."""
    given = {
        name: value for name, value in vars(task).items() if name in OPTIONS and value is not None
    }
    given |= {"agent": candidate.name, "env": task.env[0], "seed": seed}
    preset, hyperparameters = presets.training(task.model), dict[str, Any]()
    what, arguments, known = candidate.what, dict(candidate.arguments), set[str]()
    if isinstance(what, type) and issubclass(what, Agent):
        lora, env = arguments.get("lora"), task.env[0]
        preset, hyperparameters = chosen_presets(candidate.name, task.model, lora, env)
        known = {*hyperparameters, *OF_POLICY, *offered_hyperparameters(what)}
    elif isinstance(what, type):
        budget = given["max_new_tokens"]
        hyperparameters = presets.stable_baselines3(what.__name__, task.model, budget)
        known = {*inspect.signature(what).parameters, "lr_schedule"} - OF_SB3_RUN
        preset = {**preset, "n_envs": hyperparameters.pop("n_envs")}
    for name in arguments.keys() - known - {"n_envs"}:
        raise ValueError(
            f"The candidate {candidate.name} has no hyper-parameter {name}; it has "
            f"{', '.join(sorted(known))}."
        )
    of_options = {name: arguments.pop(name) for name in arguments.keys() & set(OPTIONS)}
    options = RunOptions(**{**preset, **given, **of_options})
    return _job_of(candidate, options, {**hyperparameters, **arguments}, output)


def _job_of(
    candidate: Candidate, options: RunOptions, hyperparameters: dict[str, Any], output: Path
) -> Job:
    """A run in its folder, of whichever kind its candidate is."""
    what = candidate.what
    is_agent = isinstance(what, type) and issubclass(what, Agent)

    def make() -> Any:
        hide_progress_bars()
        if is_agent:
            return make_agent(options, hyperparameters)
        return what if isinstance(what, UNTRAINED) else _of_sb3(what, options, hyperparameters)

    def run(folder: RunFolder, known: Known, signals: Signals) -> Known:
        if not is_agent:
            return _measure(candidate, options, hyperparameters, folder, known)
        with checking_options():
            agent, resumed = open_agent(options, hyperparameters, folder)
        done = carry_out(options, hyperparameters, folder, agent, resumed, known, signals)
        return done.attainable, done.learning_attainable

    def on_seed(seed: int) -> Job:
        again = dataclasses.replace(options, seed=seed)
        return _job_of(candidate, again, hyperparameters, output)

    return Job(
        options.env, candidate.label, options.seed,
        output / f"{folder_name(candidate.label)}-{options.seed}",
        options.settings(hyperparameters), learns=not isinstance(what, UNTRAINED), carry_out=run,
        goes_on=is_agent, on_seed=on_seed, make=make,
    )  # fmt: skip


def _measure(
    candidate: Candidate,
    options: RunOptions,
    hyperparameters: dict[str, Any],
    folder: RunFolder,
    known: Known,
) -> Known:
    """The run of what cannot go on after a break: a model of others, or what never learns."""
    hide_progress_bars()
    folder.write_settings(options.settings(hyperparameters))
    with checking_options():
        base = untouched(options)
    known = find_attainable(options, base, folder, known)
    actor: Any = candidate.what
    timesteps, seconds = 0, 0.0
    if not isinstance(actor, UNTRAINED):
        actor, timesteps, seconds = _learned(actor, options, hyperparameters, folder)
    console.say((f"evaluating {options.eval_episodes} episodes of {options.agent}", "dim"))
    found = evaluate_text(
        actor, base.env, options.eval_episodes, EVALUATION_SEED,
        prompts=options.evaluation_prompts(), draw=options.seed,
    )  # fmt: skip
    write_result(folder, found, timesteps, seconds)
    return known


def _learned(
    algorithm: Any, options: RunOptions, hyperparameters: dict[str, Any], folder: RunFolder
) -> tuple[Any, int, float]:
    """A trained model of stable-baselines3 with our policy, its tokens and seconds."""
    model = _of_sb3(algorithm, options, hyperparameters)
    model.set_logger(sb3_logger.configure(str(folder.path), ["csv"]))
    began = time.perf_counter()
    model.learn(options.total_timesteps, log_interval=1)
    return model, model.num_timesteps, time.perf_counter() - began


def _of_sb3(algorithm: Any, options: RunOptions, hyperparameters: dict[str, Any]) -> Any:
    """A model of stable-baselines3 with our policy, in the task."""
    return text_model(
        algorithm, options.env, options.model, n_envs=options.n_envs,
        env_kwargs=task_arguments(options, "float32"), seed=options.seed, device=options.device,
        temperature=options.temperature, **hyperparameters,
    )  # fmt: skip
