"""Which numbers an argument may have, and the sentence about those that it may not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``.

    Attributes:
        low, high: the ends, which are allowed unless said otherwise.
        above: ``low`` itself is not allowed.
        below: ``high`` itself is not allowed.
        whole: only whole numbers.
        optional: None is allowed, too.
        schedule: so is a function of the remaining progress.
    """

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    optional: bool = False
    schedule: bool = False

    def __contains__(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if callable(value):
            return self.schedule
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        if not math.isfinite(number):
            return False
        inside = self.low < number if self.above else self.low <= number
        return inside and (number < self.high if self.below else number <= self.high)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if math.isinf(self.low):
            text = kind
        elif math.isinf(self.high):
            text = f"{kind} {'above' if self.above else 'of at least'} {self.low:g}"
        else:
            ends = "".join(
                f", {end:g} excluded"
                for end, is_open in ((self.low, self.above), (self.high, self.below))
                if is_open
            )
            text = f"{kind} from {self.low:g} to {self.high:.10g}{ends}"
        return (
            text
            + (", or a function" if self.schedule else "")
            + (", or None" if self.optional else "")
        )


COUNT, COUNT_OR_NONE = Range(1, whole=True), Range(1, whole=True, optional=True)
SHARE, FACTOR = Range(0, 1), Range(0)
POSITIVE, POSITIVE_OR_NONE = Range(0, above=True), Range(0, above=True, optional=True)


def check_numbers(arguments: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Raise an error for an argument outside its range.

    Args:
        arguments: by their names; those without a range are not checked.
        ranges: by the names of arguments.

    Raises:
        ValueError: the message names the argument, its value and what is allowed.
    """
    for name, value in arguments.items():
        if name in ranges and value not in ranges[name]:
            raise ValueError(f"{name}={value!r} must be {ranges[name]}.")
