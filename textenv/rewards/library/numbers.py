"""Numbers in texts, in the ways in which people and public sets of answers write them.

Read are 1,234 and 1234.5, .5, −3, 3/4 and 1 3/4, \\frac{3}{4}, 1.2e3 and 1.2 × 10^3, all of them
with a currency before them or a unit behind them: 50 % is 50. Values are exact.
"""

import math
import re
from fractions import Fraction
from numbers import Rational, Real
from typing import Any

DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)"
TIMES = r"\s*(?:×|·|\*|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*"
POWER = rf"(?:[eE](?P<e>[-+−]?[0-9]+)(?!\w)|{TIMES}\{{?(?P<power>[-+−]?[0-9]+)\}}?)"
# A minus sign belongs to the number if no letter, digit or bracket stands before it: "4-7" is a
# difference. Three numbers with two strokes are a date.
SIGN = r"(?:(?<![\w)])(?P<sign>[-−]))?(?:\\?[$€£¥₹]\s?(?P<inner>[-−])?)?"
FRACTION = (
    r"(?:(?P<whole>[0-9]+)\s+)?(?<![/.,])(?P<top>[0-9]+)/(?P<bottom>[0-9]+)(?![/0-9]|\.[0-9])"
)
LATEX = (
    r"(?P<before>[0-9]*)\s*\\[dt]?frac\s*(?:\{\s*(?P<upper>[-−]?[0-9]+)\s*\}\s*"
    r"\{\s*(?P<lower>[0-9]+)\s*\}|(?P<up>[0-9])\s*(?P<low>[0-9]))"
)
NUMBER = re.compile(rf"{SIGN}(?:{LATEX}|{FRACTION}|(?P<decimal>{DECIMAL}){POWER}?)")
# What an answer may consist of beside its number: "x = 5", "5 km", "50\%", "90^\circ".
ANSWER = re.compile(
    rf"(?:\\?[(\[]|\\text\{{|[$+\s]|\w+\s*=)*(?:{NUMBER.pattern})"
    r"\s*(?:\\?%|\^?\{?\\circ\}?|°\w?|(?:\\text\{|\\,|\s)*[^\W\d_]{2,}[^\d=+*/\\]*|[€£¥₹])?[\\)\]}$.\s]*"
)
LARGEST = 300  # digits, and the largest power of ten: no score needs more


def last_number(text: str) -> Fraction | None:
    r"""The last number of a text, or of what it marks as its answer: what stands in its last
    ``\boxed{...}``, or after its last ``####``. None if there is no number."""
    matches = list(NUMBER.finditer(marked(text)))
    return _value(matches[-1]) if matches else None


def number_of(answer: Any) -> Fraction:
    """The number that an answer is.

    Raises:
        ValueError: it is none, or more than one.
    """
    if isinstance(answer, Rational) and not isinstance(answer, bool):
        return Fraction(int(answer.numerator), int(answer.denominator))
    if isinstance(answer, Real) and not isinstance(answer, bool) and math.isfinite(answer):
        return Fraction(repr(float(answer)))
    match = ANSWER.fullmatch(marked(answer).strip()) if isinstance(answer, str) else None
    value = _value(match) if match else None
    if value is None:
        raise ValueError(f"{answer!r} is not a number")
    return value


def marked(text: str) -> str:
    r"""What a text marks as its answer, as MATH does with ``\boxed{...}`` and GSM8K with ``####``;
    the whole text without such a mark."""
    begin = text.rfind("\\boxed{")
    if begin >= 0:
        inside, depth = text[begin + len("\\boxed{") :], 1
        for at, letter in enumerate(inside):
            depth += (letter == "{") - (letter == "}")
            if depth == 0:
                return inside[:at]
    return text.rpartition("####")[2]


def _value(match: re.Match[str]) -> Fraction | None:
    """The value of a number; None if it is too large, or divided by 0."""
    part = {name: (text or "").replace("−", "-") for name, text in match.groupdict().items()}
    if len(match[0]) > LARGEST:
        return None
    whole = part["whole"] or part["before"]
    top = part["top"] or part["upper"] or part["up"]
    bottom = part["bottom"] or part["lower"] or part["low"]
    if bottom:
        if int(bottom) == 0:
            return None
        value = Fraction(int(top), int(bottom)) + int(whole or 0)
    else:
        power = int(part["e"] or part["power"] or 0)
        if abs(power) > LARGEST:
            return None
        value = Fraction(part["decimal"].replace(",", "")) * Fraction(10) ** power
    return -value if part["sign"] or part["inner"] else value
