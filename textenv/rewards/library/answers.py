"""Whether a response ends with the right answer, a number or a word."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from textenv.rewards.check import Reward
from textenv.rewards.library.columns import RowReward, column
from textenv.rewards.library.numbers import last_number, number_of

WORD = re.compile(r"[^\W\d_]+")


def last_number_reward() -> Reward:
    r"""1 if the last number of a finished response is the column ``answer``, else 0.

    Only the last number counts, so that listing many numbers gains nothing; where a response marks
    its answer, by ``\boxed{...}`` or by ``####``, the last number there. Numbers are compared by
    their exact values: "12", "12." and "12.0" are equal, and so are "1,234" and "1234", "0.5" and
    "1/2", "50 %" and "50" (`textenv.rewards.library.numbers`); words for numbers are not read. A
    response that the token budget cut off scores 0, because its last number may be a part of one.

    The answer is a number, or a text that is one ("$1,234", "3/4", "5 km"), or that ends as the
    solutions of GSM8K do ("... #### 72").

    Raises:
        ValueError: a row has no column ``answer``, or it is no number.
    """
    return RowReward(_number_of, _is_last_number)


def last_word_reward() -> Reward:
    """1 if the last word of a finished response is the column ``answer``, else 0.

    A word is a sequence of letters, in upper or lower case. Only the last one counts. A response
    that the token budget cut off scores 0, because its last word may be a part of one.

    Raises:
        ValueError: a row has no column ``answer``, or it is no word.
    """
    return RowReward(_word_of, _is_last_word)


def _number_of(row: Mapping[str, Any]) -> Fraction:
    answer = column(row, "answer")
    try:
        return number_of(answer)
    except ValueError as error:
        raise ValueError(f"the column answer holds {answer!r}: it must be a number") from error


def _is_last_number(response: str, answer: Fraction) -> bool:
    return last_number(response) == answer


def _word_of(row: Mapping[str, Any]) -> str:
    answer = column(row, "answer")
    if not isinstance(answer, str) or not WORD.fullmatch(answer):
        raise ValueError(f"the column answer holds {answer!r}: it must be one word")
    return answer.lower()


def _is_last_word(response: str, answer: str) -> bool:
    words = WORD.findall(response.lower())
    return bool(words) and words[-1] == answer
