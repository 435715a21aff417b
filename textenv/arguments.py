"""Checks of the arguments of the environments."""

from __future__ import annotations

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
