"""Whether a response reaches a target with the numbers it was given."""

import json
import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from textenv.rewards.check import Reward
from textenv.rewards.library.arithmetic import evaluate
from textenv.rewards.library.columns import RowReward, column

OPERATION = re.compile(r"[0-9)]\s*[-+*/]+\s*[0-9(]")
OTHER_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


def countdown_reward() -> Reward:
    """1 if a finished response has an expression that reaches the target, else 0.

    The rows have the columns ``numbers`` (a list) and ``target``. The expression is the last piece
    of the response that consists of whole numbers, + - * / and brackets and has an operator between
    two numbers: in "So 3 + 5 = 8." it is "3 + 5". It scores 1 if its exact value is the target and
    it uses each given number at most once. Signs such as × and ÷, and an x between numbers, are
    read as * and /. What stands after an equals sign is not checked, and there is no partial
    credit. A response that the token budget cut off scores 0.

    The numbers may also be in a column ``nums``, as public sets name it; numbers and target may be
    texts, as in a file of CSV.

    Raises:
        ValueError: a row lacks one of the columns, or they hold something else.
    """
    return RowReward(_goal, _is_reached)


def _goal(row: Mapping[str, Any]) -> tuple[Sequence[int], int]:
    """The numbers and the target of a row."""
    name = "nums" if "nums" in row and "numbers" not in row else "numbers"
    found = [column(row, name), column(row, "target")]
    try:
        numbers, target = (json.loads(each) if isinstance(each, str) else each for each in found)
        numbers, target = [operator.index(number) for number in numbers], operator.index(target)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the columns {name} and target hold {found[0]!r} and {found[1]!r}: give a list of "
            "whole numbers, and one"
        ) from error
    return numbers, target


def _is_reached(response: str, goal: tuple[Sequence[int], int]) -> bool:
    return reaches(response, *goal)


def reaches(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the last expression of a text has this value, with each number at most once."""
    expression = last_expression(text)
    if expression is None:
        return False
    try:
        value, used = evaluate(expression)
    except ValueError:
        return False
    return value == target and Counter(used) <= Counter(numbers)


def last_expression(text: str) -> str | None:
    """The last piece of a text that has an operator between numbers; None if there is none."""
    text = text.translate(OTHER_SIGNS)
    text = re.sub(r"(?m)^\s*[-*+•]\s+", "", text)  # signs of a list
    text = re.sub(r"(?<=[0-9)])\s*[xX]\s*(?=[0-9(])", " * ", text)
    # A piece with a decimal point or a letter inside is none: "1.5 + 2" must not become "5 + 2".
    pieces = re.findall(r"(?<![\w.,])[-+*/()0-9 \t]+(?![\w]|[.,][0-9])", text)
    pieces = [piece for piece in pieces if OPERATION.search(piece)]
    # Two asterisks on each side make text bold in markdown.
    return pieces[-1].strip(" \t*") if pieces else None
