"""``train``: evaluate, learn, evaluate again, and show what changed."""

import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from agents import algorithms, distributed, files
from agents.cli.errors import ENDINGS, check_options, checking_options, exit_code, in_words
from agents.cli.parsing import parse_train, read_options
from agents.evaluation.plots import read_rows
from agents.evaluation.tables import print_evaluations
from agents.runs import Interrupted, RunFolder, Signals
from agents.runs.options import RunOptions, code_of, settings_to_go_on
from agents.runs.recorder import SAVE_EVERY
from agents.runs.train import (
    TrainedRun,
    carry_out,
    draw,
    learn_along,
    open_agent,
    open_folder,
    stored_attainable,
)
from agents.training.console import console
from textenv.arguments import Range


@dataclass
class Resume:
    """Go on with a run, exactly where it ended. All other settings are those that it began with."""

    resume: Path
    """The folder of the run."""
    total_timesteps: Annotated[int | None, Range(1)] = None
    """Tokens to generate while learning, in all; more than before lengthens the run."""
    reward: str | None = None
    """The reward again, if it is "module:function": code that a file names is not imported."""
    respond: str | None = None
    """What replies in a dialogue again, for the same reason."""
    agent: str | None = None
    """The algorithm again, if it is a "module:Class" of your own, for the same reason."""
    accept_changes: bool = False
    """Go on although prompts, the reward's code or a model have changed since the run began."""
    save_every: str = SAVE_EVERY
    """Time or rollouts between two checkpoints: "30 s", "2 min", "20 rollouts"."""
    show_samples: Annotated[int, Range(0)] = 0
    """Episodes to print after each rollout."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""


def main(arguments: list[str]) -> None:
    """Fine-tune, and print what changed."""
    is_main = distributed.is_main()
    with distributed.raise_in_all_processes(), checking_options():
        options, hyperparameters = parse_resume(arguments) or parse_train(arguments)
        check_options(options)
    with distributed.raise_in_all_processes(), checking_options():
        opened = new_or_old_folder(options) if is_main else None
    (path, *_) = distributed.all_gather(opened and opened.path)
    folder = opened or RunFolder(path)
    with Signals() as signals:
        try:
            with distributed.raise_in_all_processes(), checking_options():
                agent, resumed = open_agent(options, hyperparameters, folder)
            if is_main:
                run = carry_out(options, hyperparameters, folder, agent, resumed, signals=signals)
                show(run, options)
            else:
                learn_along(options, folder, agent, signals)
        except ENDINGS as error:
            signals.at_once = False  # what ends here is said and drawn whatever a launcher sends
            sys.exit(end_early(options, folder, error) if is_main else exit_code(error))
        finally:
            folder.unlock()


def parse_resume(arguments: list[str]) -> tuple[RunOptions, dict[str, Any]] | None:
    """The options and hyper-parameters of the run to go on with; None without ``--resume``."""
    if not any(argument.split("=")[0] == "--resume" for argument in arguments):
        return None
    _refuse_settings(arguments)
    given = read_options(Resume, arguments, "train")
    now = {
        "resume": given.resume, "save_every": given.save_every, "device": given.device,
        "show_samples": given.show_samples,
    }  # fmt: skip
    if given.total_timesteps is not None:
        now["total_timesteps"] = given.total_timesteps
    again = {"agent": given.agent, "reward": given.reward, "respond": given.respond}
    return settings_to_go_on(given.resume, again, now, given.accept_changes)


def _refuse_settings(arguments: list[str]) -> None:
    """Raise a ValueError for an option of a new run."""
    own = {each.name for each in fields(Resume)} | {"help"}
    for argument in arguments:
        option = argument.split("=")[0]
        if option.startswith("--") and option[2:].replace("-", "_") not in own:
            raise ValueError(
                f"{option} cannot be given with --resume, which goes on with the settings that the "
                "run began with: leave it out, or begin a new run."
            )


def new_or_old_folder(options: RunOptions) -> RunFolder:
    """`open_folder`, whose error names the options of the command line."""
    path = options.output
    if path is not None and RunFolder(path).is_run() and not options.overwrite:
        raise FileExistsError(
            f"There is a run in {str(path)!r} already: continue it with --resume, replace it with "
            "--overwrite, or choose another folder."
        )
    return open_folder(options)


def show(run: TrainedRun, options: RunOptions) -> None:
    """Print what a finished run has changed."""
    print_evaluations({"before": run.before, "after": run.after}, run.attainable)
    tokens, seconds = run.agent.num_timesteps, run.agent.learning_seconds
    console.say(
        f"\n{tokens} tokens in {seconds:.0f} s ({tokens / max(seconds, 1e-9):.0f} tokens/s, "
        f"learning included)\nagent  {run.folder.agent}\nplot   {run.folder.plot}\n"
        f"again  {evaluate_command(options, run.folder)}"
    )


def end_early(options: RunOptions, folder: RunFolder, error: BaseException) -> int:
    """Say what an interrupted run has reached, and how to go on; returns the exit code."""
    console.say(in_words(error))
    damaged = isinstance(error, files.DamagedFile)
    if folder.is_run() and folder.has_begun and not damaged:
        console.say(f"go on  {resume_command(options, folder)}")
    elif not damaged and options.resume is None:
        console.say("Nothing had been measured or learned yet, so nothing is kept.")
    # As far as it goes, and as the user waits.
    with suppress(OSError, KeyError, ValueError, Interrupted):
        before = folder.evaluations()["before"]
        for row in read_rows(folder.progress)[-1:]:
            console.print(f"{'':6}{'before':>9}{'last rollout':>14}")
            columns = {"return": "ep_rew_mean", "score": "score_mean", "kl": "kl"}
            for name, column in columns.items():
                value = float(row[f"rollout/{column}"])
                console.print(f"{name:6}{before[name]['mean']:+z9.3f}{value:+z14.3f}")
            draw(options, folder, stored_attainable(folder)[1])
            console.print(f"plot   {folder.plot}", soft_wrap=True)
    return exit_code(error)


def evaluate_command(options: RunOptions, folder: RunFolder) -> str:
    """The command that repeats the table: the run has its settings, but no code."""
    return f"python -m agents evaluate {shlex.quote(str(folder.path))}{_code(options)}"


def resume_command(options: RunOptions, folder: RunFolder) -> str:
    """The command that goes on with the run."""
    agent = "" if options.agent in algorithms.NAMES else f" --agent {shlex.quote(options.agent)}"
    return f"python -m agents train --resume {shlex.quote(str(folder.path))}{agent}{_code(options)}"


def _code(options: RunOptions) -> str:
    """The reward and the responder, if they name code: what a file names is not imported."""
    code = code_of(vars(options))
    return "".join(f" --{name} {shlex.quote(value)}" for name, value in code.items())
