"""DigitSum-v0: the sum of the digits of a number, one step at a time."""

import random
from typing import Annotated

from textenv.arguments import Range, check_ranges
from textenv.tasks.drawing import Row, draw_rows
from textenv.tasks.spec import TaskSpec

# Small models do not follow instructions, but go on with what they see (few-shot prompting, Brown
# et al. 2020), here with the intermediate steps written out (Wei et al. 2022).
WORKED = ("35", "481", "27")


def rows(
    size: int = 512, seed: int = 0, held_out: bool = False, digits: Annotated[int, Range(2, 9)] = 3
) -> list[Row]:
    """Rows with the columns ``prompt`` and ``answer``.

    Args:
        size, seed, held_out: See `textenv.tasks.drawing.draw_rows`.
        digits: The largest number of digits, from 2 to 9.
    """
    check_ranges(rows, {"digits": digits})

    def draw(generator: random.Random) -> tuple[str, str]:
        length = generator.randint(2, digits)
        number = str(generator.randrange(10 ** (length - 1), 10**length))
        return (number, number) if number not in WORKED else draw(generator)

    return draw_rows(draw, _row, size, seed, held_out)


def _row(number: str, _: random.Random) -> Row:
    worked = "".join(f"{_question(n)} {' + '.join(n)} = {_sum(n)}\n" for n in WORKED)
    return {"prompt": worked + _question(number), "answer": _sum(number)}


def _question(number: str) -> str:
    return f"Sum of the digits of {number}:"


def _sum(number: str) -> int:
    return sum(map(int, number))


TASK = TaskSpec(
    id="DigitSum-v0",
    description="Add the digits of a number of two or three digits, after three worked examples.",
    prompts=rows(),
    held_out=rows(64, held_out=True),
    reward="last_number",
    max_new_tokens=16,
    stop=("\n",),
)
