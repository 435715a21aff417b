"""``train --resume``: the options of a run that goes on are those that it began with.

The commands that a run prints, to go on with it or to evaluate it, are here, too.
"""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.cli.names import AGENTS, can_go_on, find_agent
from agents.cli.options import Train
from agents.runs import RunFolder
from agents.runs.recorder import SAVE_EVERY
from textenv.arguments import Range
from textenv.rewards import names_code


@dataclasses.dataclass
class Resume:
    """Go on with a run, exactly where it ended. All other settings are those that it began with."""

    resume: Path
    """The folder of the run."""
    total_timesteps: Annotated[int | None, Range(1)] = None
    """Tokens to generate while learning, in all; more than before lengthens the run."""
    reward: str | None = None
    """The reward again, if it is "module:function": code that a file names is not imported."""
    agent: str | None = None
    """The algorithm again, if it is a "module:Class" of your own, for the same reason."""
    save_every: str = SAVE_EVERY
    """Time or rollouts between two checkpoints: "30 s", "2 min", "20 rollouts"."""
    show_samples: Annotated[int, Range(0)] = 0
    """Episodes to print after each rollout."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""


def parse_resume(arguments: list[str]) -> tuple[Train, dict[str, Any]] | None:
    """The options and hyper-parameters of the run to go on with; None without ``--resume``.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: it cannot be gone on with here, or its reward or agent must be named again.
    """
    if not any(argument.split("=")[0] == "--resume" for argument in arguments):
        return None
    given = tyro.cli(Resume, args=arguments, prog="python -m agents train")
    settings = RunFolder(given.resume).settings()
    if not {"options", "chosen"} <= settings.keys():
        raise ValueError(
            f"The run in {str(given.resume)!r} was not made by this command: go on with it from "
            "Python, with Agent.load and RunRecorder(resume=True)."
        )
    saved, chosen = settings["options"], settings["chosen"]
    if not can_go_on(saved["agent"]):
        raise ValueError(
            f"The run in {str(given.resume)!r} is of {saved['agent']}, which cannot go on after a "
            "break: the same compare command repeats it."
        )
    check_named_again("agent", saved["agent"] not in AGENTS, given, saved)
    check_named_again("reward", names_code(saved["reward"]), given, saved)
    fields = {field.name for field in dataclasses.fields(Train)}
    known = inspect.signature(find_agent(saved["agent"])).parameters
    now = {
        "resume": given.resume, "save_every": given.save_every, "device": given.device,
        "show_samples": given.show_samples,
        "total_timesteps": given.total_timesteps or saved["total_timesteps"],
    }  # fmt: skip
    options = Train(**{name: value for name, value in saved.items() if name in fields} | now)
    return options, {name: value for name, value in chosen.items() if name in known}


def check_named_again(what: str, is_code: bool, given: Resume, saved: dict[str, Any]) -> None:
    """Raise an error unless the agent or the reward of the run is named again, if it is code.

    Raises:
        ValueError: it is not, or another one is named.
    """
    here = getattr(given, what)
    if is_code and here is None:
        raise ValueError(
            f"The run in {str(given.resume)!r} has {what}={saved[what]!r}, which names code. Code "
            f"that a file names is not imported: name it yourself, with --{what}."
        )
    if here not in (None, saved[what]):
        raise ValueError(
            f"--{what} {here} is another one than that of the run, {saved[what]}: begin a new run "
            "for it."
        )


def evaluate_command(options: Train, folder: RunFolder) -> str:
    """The command that repeats the table: the run has its settings, but no code."""
    return f"python -m agents evaluate {shlex.quote(str(folder.path))}{_code(options)}"


def resume_command(options: Train, folder: RunFolder) -> str:
    """The command that goes on with the run."""
    agent = "" if options.agent in AGENTS else f" --agent {shlex.quote(options.agent)}"
    return f"python -m agents train --resume {shlex.quote(str(folder.path))}{agent}{_code(options)}"


def _code(options: Train) -> str:
    """The reward, if it names code: what a file names is not imported."""
    return f" --reward {shlex.quote(options.reward)}" if names_code(options.reward) else ""
