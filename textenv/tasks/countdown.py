"""Countdown-v0: reach a target with some of the given numbers."""

import random
from typing import Annotated

from textenv.arguments import Range, check_ranges
from textenv.tasks.drawing import Row, draw_rows
from textenv.tasks.spec import TaskSpec

LARGEST_NUMBER, LARGEST_TARGET = 12, 40
OPERATIONS = int.__add__, int.__sub__, int.__mul__


def rows(
    size: int = 128, seed: int = 0, held_out: bool = False, count: Annotated[int, Range(2, 6)] = 3
) -> list[Row]:
    """Rows with the columns ``prompt``, ``numbers`` and ``target``.

    The target is reached by two or more of the numbers, from left to right, with + - and *; it is
    between 1 and 40 and none of the numbers. Other ways to reach it are as right.

    Args:
        size, seed, held_out: See `textenv.tasks.drawing.draw_rows`. Sets of numbers are held out,
            whichever target belongs to them.
        count: How many numbers are given, from 2 to 6.
    """
    check_ranges(rows, {"count": count})

    def draw(generator: random.Random) -> tuple[str, list[int]]:
        numbers = generator.sample(range(1, LARGEST_NUMBER + 1), count)
        return str(sorted(numbers)), numbers

    return draw_rows(draw, _row, size, seed, held_out)


def _row(numbers: list[int], generator: random.Random) -> Row:
    target = _target(generator, numbers)
    listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
    prompt = (
        f"Use two or more of the numbers {listed} to make {target}, each at most once. "
        "Answer with one expression, such as 2 * 6 + 1."
    )
    return {"prompt": prompt, "numbers": numbers, "target": target}


def _target(generator: random.Random, numbers: list[int]) -> int:
    """A target that some of the numbers reach."""
    order = list(numbers)
    while True:
        generator.shuffle(order)
        value = order[0]
        for number in order[1 : generator.randint(2, len(order))]:
            value = generator.choice(OPERATIONS)(value, number)
        if 1 <= value <= LARGEST_TARGET and value not in numbers:
            return value


TASK = TaskSpec(
    id="Countdown-v0",
    description="Reach a target with an expression of some of three small numbers.",
    prompts=rows(),
    held_out=rows(32, held_out=True),
    reward="countdown",
    max_new_tokens=32,
    chat=True,
)
