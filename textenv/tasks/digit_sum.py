"""DigitSum-v0: the sum of the digits of a number."""

from __future__ import annotations

import random

from textenv.ranges import Range, check_numbers
from textenv.tasks.drawing import Row, draw_rows
from textenv.tasks.spec import TaskSpec


def rows(size: int = 60, seed: int = 0, held_out: bool = False, digits: int = 2) -> list[Row]:
    """Rows with the columns ``prompt`` and ``answer``.

    Args:
        size, seed, held_out: See `textenv.tasks.drawing.draw_rows`.
        digits: The largest number of digits, from 2 to 9.

    Raises:
        ValueError: An argument is out of its range, or there are not as many numbers.
    """
    check_numbers({"digits": digits}, {"digits": Range(2, 9, whole=True)})

    def draw(generator: random.Random) -> tuple[str, str]:
        length = generator.randint(2, digits)
        number = str(generator.randrange(10 ** (length - 1), 10**length))
        return number, number

    return draw_rows(draw, _row, size, seed, held_out)


def _row(number: str, _: random.Random) -> Row:
    question = f"What is the sum of the digits of {number}? Reply with the number only."
    return {"prompt": question, "answer": sum(map(int, number))}


TASK = TaskSpec(
    id="DigitSum-v0",
    description="Say the sum of the digits of a number of two digits.",
    prompts=rows(),
    held_out=rows(16, held_out=True),
    reward="last_number",
    max_new_tokens=32,
    chat=True,
)
