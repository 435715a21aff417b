"""Checks of the arguments of the environments."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Collection, Mapping
from typing import Any

import torch
from gymnasium.vector import AutoresetMode


def require(condition: bool, message: str) -> None:
    """Raise a ValueError with ``message`` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def autoreset_mode_of(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode of a name, a value, or itself.

    Raises:
        ValueError: it is none.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if str(mode).lower() in (known.value.lower(), known.name.lower()):
            return known
    names = ", ".join(repr(known.name) for known in AutoresetMode)
    raise ValueError(f"autoreset_mode={mode!r} is unknown: use one of {names}.")


def check_scoring(scoring: str, mode: AutoresetMode, text_info: bool) -> None:
    """Raise an error if batch scoring is combined with what only step scoring has.

    Raises:
        ValueError: it is, or ``text_info`` is not a bool.
    """
    require(isinstance(text_info, bool), f"text_info={text_info!r} must be True or False.")
    require(
        scoring != "batch" or mode == AutoresetMode.DISABLED,
        "scoring='batch' needs autoreset_mode=AutoresetMode.DISABLED, because all rows end "
        f"together; this is {mode.value!r}.",
    )
    require(
        scoring != "batch" or text_info,
        "text_info=False needs scoring='step': with 'batch', which agents choose, infos describe "
        "whole episodes; leave text_info out.",
    )


def checked_device(device: str | torch.device) -> torch.device:
    """The device.

    Raises:
        ValueError: PyTorch does not know it, or cannot use it here.
    """
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


LONGEST = 160  # characters of another library's message inside one of ours


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message, or the beginning of that."""
    lines = str(error).strip().splitlines()
    begin = textwrap.shorten(lines[0], LONGEST, placeholder=" ...") if lines else "no message"
    return f"{type(error).__name__}: {begin}"


def checked_options(options: Mapping[str, Any] | None, known: Collection[str]) -> Mapping[str, Any]:
    """The options of a reset.

    Raises:
        ValueError: there is an unknown one.
    """
    options = options or {}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(
            f"options[{unknown[0]!r}] is unknown: reset takes the options {', '.join(known)}."
        )
    return options


def unknown_argument(owner: str, name: str, known: Collection[str]) -> str:
    """The sentence about an argument that ``owner`` does not have, with the nearest ones."""
    near = difflib.get_close_matches(name, known)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{owner} has no argument {name!r}.{hint}"
