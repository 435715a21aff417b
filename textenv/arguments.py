"""Checks of the arguments of the environments."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

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
