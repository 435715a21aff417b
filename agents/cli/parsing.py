"""Reading the options of a command; the defaults of those of ``train`` depend on one another."""

import dataclasses
import re
import types
from dataclasses import field
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from agents import algorithms
from agents.cli.errors import check_options, checking_options
from agents.runs.options import (
    RunOptions,
    chosen_presets,
    defaults_of,
    offered_hyperparameters,
    with_absolute_paths,
)
from textenv.arguments import as_path, hints_of, sentences_of
from textenv.lm.loading import hide_progress_bars

T = TypeVar("T")
NUMBER = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<power>[eE]\+?[0-9]{1,2})?(?P<unit>[kKmM])?"
)
UNITS = {"": 1, "k": 1000, "K": 1000, "m": 1_000_000, "M": 1_000_000}


def parsed(cls: type[T], arguments: list[str], command: str) -> T:
    """The options of a command; one that is out of its range ends the program."""
    options = read_options(cls, arguments, command)
    hide_progress_bars()
    with checking_options():
        check_options(options)
    return options


def read_options(cls: type[T], arguments: list[str], command: str, **keywords: Any) -> T:
    """The options of a command as they are written, in whose paths ``~`` is the user's folder."""
    arguments = _with_whole_numbers(arguments, _whole_numbers(cls))
    options: Any = tyro.cli(cls, args=arguments, prog=f"python -m agents {command}", **keywords)
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        if isinstance(value, Path):
            setattr(options, each.name, as_path(value))
        elif isinstance(value, tuple):
            paths = tuple(as_path(part) if isinstance(part, Path) else part for part in value)
            setattr(options, each.name, paths)
    return options


def _whole_numbers(cls: Any) -> set[str]:
    """The options of a command, as they are written, whose values are whole numbers."""
    found = set()
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= _whole_numbers(hint)
        elif int in (hint, *get_args(hint)) and float not in get_args(hint):
            found |= {f"--{name}", f"--{name.replace('_', '-')}"}
    return found


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
    preset, hyperparameters = chosen_presets(
        name, chosen(arguments, "--model", RunOptions.model), None if lora == "None" else lora
    )
    preset |= defaults_of(chosen(arguments, "--env", RunOptions.env))
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
                Annotated[group, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff],
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
    return field(default_factory=lambda: value)


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
