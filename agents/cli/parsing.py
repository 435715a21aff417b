"""Reading the options of a command; the defaults of those of ``train`` depend on one another."""

import dataclasses
import re
import sys
import types
from dataclasses import field
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from agents import algorithms
from agents.cli import BROKEN_PIPE
from agents.cli.errors import check_options, checking_options
from agents.runs.options import (
    RunOptions,
    TaskOptions,
    chosen_presets,
    defaults_of,
    offered_hyperparameters,
    with_absolute_paths,
)
from textenv.arguments import as_path, hints_of, sentences_of
from textenv.lm.loading import hide_progress_bars

T = TypeVar("T")
YES_OR_NO = ("True", "true", "False", "false")
# The options of a training run, as they are shown; those of the algorithm are a group of their own.
GROUPS = {
    "task": (
        "env", "suite", "model", "reward", "prompts", "chat", "max_new_tokens", "stop",
        "legal_tokens", "kl_coef", "temperature", "reward_timeout", "reward_retries",
    ),
    "dialogue": ("respond", "max_turns", "max_turn_tokens", "max_reply_tokens"),
    "learning": (
        "agent", "agents", "total_timesteps", "n_envs", "lora", "critic_layers", "seed", "seeds",
        "until_decided", "max_seeds", "device", "dtype",
    ),
    "evaluation": ("eval_prompts", "eval_episodes", "reference_episodes"),
    "run": (
        "output", "save", "resume", "overwrite", "save_every", "show_samples", "log_megabytes",
        "jobs",
    ),
}  # fmt: skip
NUMBER = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<power>[eE]\+?[0-9]{1,2})?(?P<unit>[kKmM])?"
)
UNITS = {"": 1, "k": 1000, "K": 1000, "m": 1_000_000, "M": 1_000_000}

# Further names of options, by command: as other commands, or earlier releases, call them.
OTHER_NAMES = {
    ("Evaluate", "eval_episodes"): ("--episodes",),
    ("Compare", "eval_episodes"): ("--episodes",),
    ("Preferences", "reward"): ("--label-by",),
    ("Duel", "judge"): ("--reward",),
}


def parsed(cls: type[T], arguments: list[str], command: str) -> T:
    """The options of a command; one that is out of its range ends the program."""
    options = read_options(cls, arguments, command)
    hide_progress_bars()
    with checking_options():
        check_options(options)
    return options


def read_options(cls: type[T], arguments: list[str], command: str, default: T | None = None) -> T:
    """The options of a command as they are written, in whose paths ``~`` is the user's folder."""
    arguments = _with_whole_numbers(arguments, _names(cls, int))
    arguments = _with_flags(arguments, _names(cls, bool))
    shown = _in_groups(cls, default)
    try:
        read: Any = tyro.cli(shown, args=arguments, prog=f"python -m agents {command}")
    except BrokenPipeError:  # of what reads the help, such as head
        sys.exit(BROKEN_PIPE)
    values = vars(read) | {
        name: value for group in GROUPS for name, value in vars(getattr(read, group, read)).items()
    }
    names = [each.name for each in dataclasses.fields(cls)]  # type: ignore[arg-type]
    options: Any = cls(**{name: values[name] for name in names})
    for name in names:
        value = getattr(options, name)
        if isinstance(value, Path):
            setattr(options, name, as_path(value))
        elif isinstance(value, tuple):
            paths = tuple(as_path(part) if isinstance(part, Path) else part for part in value)
            setattr(options, name, paths)
    return options


def _in_groups(cls: Any, default: Any) -> type:
    """A class with the same options as tyro shows them: in groups, each with its sentence in one
    piece, however it is broken into lines in the source."""
    hints, sentences = get_type_hints(cls, include_extras=True), sentences_of(cls)
    options = {}
    for each in dataclasses.fields(cls):
        start = each if default is None else _default(getattr(default, each.name))
        factory = start.default_factory
        empty = factory is not dataclasses.MISSING and factory() == []
        about: Any = tyro.conf.arg(
            help=sentences.get(each.name),
            help_behavior_hint="(default: none)" if empty else None,
            aliases=OTHER_NAMES.get((cls.__name__, each.name)),
        )
        kept = field(default=start.default, default_factory=factory, kw_only=True)
        options[each.name] = (each.name, Annotated[hints[each.name], about], kept)
    parts = []
    for group, names in GROUPS.items() if issubclass(cls, TaskOptions) else ():
        chosen = [options.pop(name) for name in names if name in options]
        part: Any = dataclasses.make_dataclass(group, chosen)
        part.__doc__ = " "  # else it would be shown how to make one
        parts.append(
            (group, Annotated[part, tyro.conf.OmitArgPrefixes], field(default_factory=part))
        )
    found = dataclasses.make_dataclass(cls.__name__, [*parts, *options.values()])
    found.__doc__ = cls.__doc__
    return found


def _names(cls: Any, kind: type) -> set[str]:
    """The options of a command, as they are written, whose values are whole numbers, or yes or
    no."""
    found = set()
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= _names(hint, kind)
        elif kind in (hint, *get_args(hint)) and float not in get_args(hint):
            found |= {f"--{name}", f"--{name.replace('_', '-')}"}
    return found


def _with_flags(arguments: list[str], names: set[str]) -> list[str]:
    """``--option True`` and ``--option False`` as ``--option`` and ``--no-option``."""
    written: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument in YES_OR_NO and written and written[-1] in names:
            name, value = written.pop(), argument
        elif not (equals and name in names and value in YES_OR_NO):
            name = argument
            written.append(argument)
            continue
        written.append(name if value in YES_OR_NO[:2] else f"--no-{name[2:]}")
    return written


def _with_whole_numbers(arguments: list[str], names: set[str]) -> list[str]:
    """1e5 and 100k as whole numbers, where these are asked for."""

    def read(value: str) -> str:
        match = NUMBER.fullmatch(value)
        if match is None or not (match["power"] or match["unit"]):
            return value
        number = Decimal(match["number"] + (match["power"] or "")) * UNITS[match["unit"] or ""]
        return str(int(number)) if number == int(number) else value

    written = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, value = argument.partition("=")
        if equals and name in names:
            argument = f"{name}={read(value)}"
        elif before in names:
            argument = read(argument)
        written.append(argument)
    return written


def parse_train(arguments: list[str]) -> tuple[RunOptions, dict[str, Any]]:
    """The options of a run and the hyper-parameters of its algorithm.

    Their defaults are the presets of the chosen algorithm and model, and those of the task.
    """
    name = chosen(arguments, "--agent", RunOptions.agent)
    cls_of_agent, lora = algorithms.find(name), chosen(arguments, "--lora", "None")
    env = chosen(arguments, "--env", RunOptions.env)
    preset, hyperparameters = chosen_presets(
        name, chosen(arguments, "--model", RunOptions.model), None if lora == "None" else lora, env
    )
    preset |= defaults_of(env)
    fields = _hyperparameter_fields(cls_of_agent, hyperparameters)
    group = dataclasses.make_dataclass(cls_of_agent.__name__, fields)
    group.__doc__ = f"Hyper-parameters of {cls_of_agent.__name__}."
    hints = get_type_hints(RunOptions, include_extras=True)
    cls = dataclasses.make_dataclass(
        "Train",
        [
            *((key, hints[key], _default(value)) for key, value in preset.items()),
            (
                "hyperparameters",
                Annotated[group, tyro.conf.OmitArgPrefixes],
                field(default_factory=group),
            ),
        ],
        bases=(RunOptions,),
    )
    cls.__doc__ = "Fine-tune a language model on a reward, and show what changed."
    options: Any = read_options(cls, arguments, "train")
    return with_absolute_paths(options), dataclasses.asdict(options.hyperparameters)


def _default(value: Any) -> Any:
    """The field of a dataclass with this default, which may be a list."""
    return field(default_factory=lambda: value) if isinstance(value, list) else field(default=value)


def _hyperparameter_fields(cls: type, preset: dict[str, Any]) -> list[tuple]:
    """The hyper-parameters of an algorithm as fields of a dataclass, with their sentences."""
    defaults = {each.name: each.default for each in dataclasses.fields(cls)}
    hints, sentences = hints_of(cls), sentences_of(cls)
    return [
        (
            name,
            Annotated[_plain(hints[name]), tyro.conf.arg(help=sentences.get(name, ""))],
            field(default=preset.get(name, defaults[name])),
        )
        for name in offered_hyperparameters(cls)
    ]


def _plain(hint: Any) -> Any:
    """A type that fits a command line: schedules, which are functions, are left out."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (types.UnionType, Union):
        kept = [part for part in get_args(hint) if part in (int, float, bool, str, type(None))]
        hint = kept[0]
        for part in kept[1:]:
            hint = hint | part
    return hint


def values_of(arguments: list[str], option: str) -> list[str]:
    """The values of one option, on which the other options depend; empty without it."""
    for i, argument in enumerate(arguments):
        if argument == option:
            return list(takewhile(lambda value: not value.startswith("--"), arguments[i + 1 :]))
        if argument.startswith(option + "="):
            return [argument.split("=", 1)[1]]
    return []


def chosen(arguments: list[str], option: str, default: str) -> str:
    """The first value of an option, or else its default."""
    return next(iter(values_of(arguments, option)), default)
