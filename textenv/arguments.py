"""Arguments: each is one line, with its type, its range, its default and its sentence.

    class Task(Arguments):
        budget: Annotated[int, Range(1)] = 24
        "Tokens of a response."

`Arguments` makes a constructor of such lines; `help`, the checks, what is saved and the command
line read the same ones. `check_ranges` also reads the annotations of a function.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import math
import os
import reprlib
import textwrap
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import (
    Annotated,
    Any,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import torch

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Range:
    """The numbers that an argument may have: ``Annotated[float, Range(0, 1)]``.

    The type says the rest: an ``int`` is a whole number; None and functions, such as schedules, are
    allowed where the type has them.
    """

    low: float = -math.inf  # the ends, which are allowed themselves
    high: float = math.inf
    above: float | None = None  # ends that are not
    below: float | None = None
    whole: bool = field(default=False, kw_only=True)
    optional: bool = field(default=False, kw_only=True)
    schedule: bool = field(default=False, kw_only=True)

    def of(self, hint: Any) -> Range:
        """This range for a type, such as ``int | None``."""
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        return replace(
            self,
            whole=int in parts and float not in parts,
            optional=type(None) in parts,
            schedule=any(get_origin(part) is Callable for part in parts),
        )

    def __contains__(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if callable(value):
            return self.schedule
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        return (
            math.isfinite(number)
            and self.low <= number <= self.high
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        low = self.low if self.above is None else self.above
        high = self.high if self.below is None else self.below
        text = "a whole number" if self.whole else "a number"
        if math.isfinite(high):
            ends = [f", {end:g} excluded" for end in (self.above, self.below) if end is not None]
            text += f" from {low:g} to {high:.10g}{''.join(ends)}"
        elif math.isfinite(low):
            text += f" {'of at least' if self.above is None else 'above'} {low:g}"
        text += ", or a function" if self.schedule else ""
        return text + (", or None" if self.optional else "")


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gives, in which a leading ``~`` is the user's own folder."""
    return Path(os.path.expanduser(path))


def check_ranges(owner: Any, values: Mapping[str, Any]) -> None:
    """Raise a ValueError for one of the named ``values`` that is outside its range in the
    annotations of ``owner``, a class or a function; those without a range are not checked."""
    ranges = ranges_of(owner)
    for name, value in values.items():
        if name in ranges and value not in ranges[name]:
            raise ValueError(f"{name}={value!r} must be {ranges[name]}.")


@cache
def hints_of(owner: Any) -> dict[str, Any]:
    """The annotations of a class or a function, with their ranges."""
    return get_type_hints(owner, include_extras=True)


@cache
def ranges_of(owner: Any) -> dict[str, Range]:
    """The ranges in the annotations of a class or a function, by the names of the arguments."""
    return {
        name: part.of(get_args(hint)[0])
        for name, hint in hints_of(owner).items()
        if get_origin(hint) is Annotated
        for part in get_args(hint)[1:]
        if isinstance(part, Range)
    }


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(field,))
class Arguments:
    """Base of classes whose fields are the keyword arguments of their constructor.

    A class that is derived from it becomes a dataclass: it has no constructor, but
    ``__post_init__`` if something follows from its arguments. A value without a type changes the
    default of an argument that the class has inherited.
    """

    def __init_subclass__(cls: Any, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            raise TypeError(
                f"{cls.__name__} has a constructor: write each of its arguments as a field, such "
                "as 'margin: float = 0.0', and what follows from them into __post_init__."
            )
        inherited: set[str] = {each.name for each in fields(cls)} if is_dataclass(cls) else set()
        changed = {name: hints_of(cls)[name] for name in vars(cls).keys() & inherited}
        cls.__annotations__ = changed | vars(cls).get("__annotations__", {})
        doc = inspect.cleandoc(vars(cls).get("__doc__") or f"{cls.__name__}.")
        dataclass(kw_only=True, repr=False, eq=False)(cls)
        hints_of.cache_clear()
        cls.__doc__ = f"{doc}\n\nArgs:\n{_listed(cls)}"
        cls.__signature__ = inspect.Signature(_parameters(cls.__init__, hints_of(cls))[1:])

    def __new__(cls, *positional: Any, **named: Any) -> Any:
        check_names(cls, named)
        return super().__new__(cls)


def takes(arguments: Any) -> Callable[[C], C]:
    """Decorator of a class whose constructor hands ``**keywords`` on to a class of `Arguments`.

    `help` and `inspect.signature` then show these arguments as well, except those that the
    constructor names itself. Their sentences take the place of the line ``**keywords`` in the
    docstring of the class.
    """

    def shown(decorated: C) -> C:
        cls: Any = decorated
        own = _parameters(cls.__init__, hints_of(cls.__init__))
        keywords, named = own.pop(), {each.name for each in own}
        every = inspect.signature(arguments).parameters.values()
        others = [each for each in every if each.name not in named]
        ordered = sorted([*own[:1], *others, *own[1:]], key=lambda each: each.kind)
        cls.__init__.__signature__ = inspect.Signature(ordered)
        listed = _listed(arguments, named)
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "").replace(f"    **{keywords.name}", listed)
        return decorated

    return shown


@cache
def sentences_of(cls: type) -> dict[str, str]:
    """The sentence below each field of a class and of its bases; empty where there is no source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object or "__annotations__" not in vars(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = getattr(tree.body[0], "body", [])
        for line, below in itertools.pairwise(body):
            text = getattr(getattr(below, "value", None), "value", None)
            if isinstance(line, ast.AnnAssign) and isinstance(text, str):
                found[ast.unparse(line.target)] = " ".join(text.split())
    return found


def _parameters(function: Any, hints: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The parameters of a function with plain types, for `help`."""
    return [
        each.replace(annotation=get_args(hint)[0] if get_origin(hint) is Annotated else hint)
        for each in inspect.signature(function).parameters.values()
        for hint in (hints.get(each.name, each.empty),)
    ]


def _listed(cls: Any, without: Collection[str] = ()) -> str:
    """The arguments of a class with their sentences, as a docstring lists them."""
    sentences = sentences_of(cls)
    lines = [
        f"{each.name}: {sentences.get(each.name, '')}".rstrip(": ")
        for each in fields(cls)
        if each.name not in without
    ]
    fill = textwrap.TextWrapper(96, initial_indent="    ", subsequent_indent="        ").fill
    return "\n".join(map(fill, lines))


def checked_device(device: str | torch.device) -> torch.device:
    """The device of a name, which PyTorch must know and be able to use here."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is unknown: use 'cpu', 'cuda', 'cuda:1', 'mps', ... (agents also "
            "take 'auto')."
        ) from error
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here ({first_line(error)}): use 'cpu' (agents also "
            "take 'auto')."
        ) from error
    return found


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message, or the beginning of that."""
    lines = str(error).strip().splitlines()
    begin = textwrap.shorten(lines[0], 160, placeholder=" ...") if lines else "no message"
    return f"{type(error).__name__}: {begin}"


def brief(value: Any) -> str:
    """The `repr` of a value for a message: the ends of a long one, and no more than a line."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = shortener.maxlong = 80
    shortener.maxlevel, shortener.maxlist, shortener.maxtuple, shortener.maxdict = 3, 3, 3, 6
    return textwrap.shorten(shortener.repr(value), 320, placeholder=" ...")


def checked_options(options: Mapping[str, Any] | None, known: Collection[str]) -> Mapping[str, Any]:
    """The options of a reset."""
    options = options or {}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(
            f"options[{unknown[0]!r}] is unknown: reset takes the options {', '.join(known)}."
        )
    return options


def check_names(owner: Any, given: Collection[str], others: Collection[str] = ()) -> None:
    """Raise a TypeError, with the nearest ones, for a name that is none of the arguments of
    ``owner``; ``others`` are meant instead, too."""
    known = [*inspect.signature(owner).parameters, *others]
    for name in given:
        if name not in known:
            raise TypeError(unknown_argument(owner.__name__, name, known))


def unknown_argument(owner: str, name: str, known: Collection[str]) -> str:
    """The sentence about an argument that ``owner`` does not have, with the nearest ones.

    It begins as Python's own, by which torchrl knows that it may leave the argument out.
    """
    near = difflib.get_close_matches(name, known)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{owner} got an unexpected keyword argument {name!r}.{hint}"


def check_limit(max_episode_steps: int | None, max_new_tokens: int) -> None:
    """Raise a ValueError for a limit of steps that cuts episodes off before they are scored."""
    if max_episode_steps is not None and max_episode_steps < max_new_tokens:
        raise ValueError(
            f"max_episode_steps={max_episode_steps} is below max_new_tokens={max_new_tokens}: "
            "episodes would be cut off before they are scored, so that every reward is 0; set "
            "max_new_tokens instead, which limits an episode and scores it."
        )
