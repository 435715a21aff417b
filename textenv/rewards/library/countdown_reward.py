"""Whether a response reaches a target with the numbers it was given."""

import re
from collections import Counter
from collections.abc import Sequence

from textenv.episode import Episode
from textenv.rewards.check import Reward
from textenv.rewards.library.arithmetic import evaluate
from textenv.rewards.library.columns import column, finished

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
    """
    return countdown


def countdown(episodes: Sequence[Episode]) -> list[float]:
    return [
        float(
            reaches(episode.response, column(episode, "numbers"), column(episode, "target"))
            and finished(episode)
        )
        for episode in episodes
    ]


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
