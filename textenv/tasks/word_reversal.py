"""WordReversal-v0: the letters of a word in reverse order."""

import random

from textenv.tasks.drawing import Row, draw_rows
from textenv.tasks.spec import TaskSpec
from textenv.tasks.words import WORDS

SHORT_WORDS = [word for word in WORDS if len(word) <= 4 and word != word[::-1]]


def rows(size: int = 120, seed: int = 0, held_out: bool = False) -> list[Row]:
    """Rows with the columns ``prompt`` and ``answer``, of words of three or four letters.

    No word is the same backwards, so that copying it is never right.

    Args:
        size, seed, held_out: See `textenv.tasks.drawing.draw_rows`.
    """
    return draw_rows(_draw, _row, size, seed, held_out)


def _draw(generator: random.Random) -> tuple[str, str]:
    word = generator.choice(SHORT_WORDS)
    return word, word


def _row(word: str, _: random.Random) -> Row:
    question = f'Write the word "{word}" backwards. Answer with one word.'
    return {"prompt": question, "answer": word[::-1]}


TASK = TaskSpec(
    id="WordReversal-v0",
    description="Write a word of three or four letters backwards.",
    prompts=rows(),
    held_out=rows(32, held_out=True),
    reward="last_word",
    max_new_tokens=16,
    chat=True,
)
