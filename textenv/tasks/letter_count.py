"""LetterCount-v0: how often a letter occurs in a word."""

import random

from textenv.tasks.drawing import Row, draw_rows
from textenv.tasks.spec import TaskSpec
from textenv.tasks.words import WORDS

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
REPEATED = [(word, at) for word in WORDS for at in sorted(set(word)) if word.count(at) > 1]


def rows(size: int = 128, seed: int = 0, held_out: bool = False) -> list[Row]:
    """Rows with the columns ``prompt`` and ``answer``.

    In about a third of the rows each, the letter does not occur, occurs once, or occurs more often
    (nearly always twice), so that no single guess is right much more often.

    Args:
        size, seed, held_out: See `textenv.tasks.drawing.draw_rows`. Words are held out, whichever
            letter is asked about.
    """
    return draw_rows(_draw, _row, size, seed, held_out)


def _draw(generator: random.Random) -> tuple[str, tuple[str, str]]:
    count = generator.randrange(3)
    word, letter = generator.choice(REPEATED)
    while count < 2 and word.count(letter) != count:
        word = generator.choice(WORDS)
        letter = generator.choice(word if count else ALPHABET)
    return word, (word, letter)


def _row(item: tuple[str, str], _: random.Random) -> Row:
    word, letter = item
    question = f'How many times does the letter "{letter}" occur in the word "{word}"?'
    return {"prompt": f"{question} Reply with the number only.", "answer": word.count(letter)}


TASK = TaskSpec(
    id="LetterCount-v0",
    description="Say how often a letter occurs in a short word.",
    prompts=rows(),
    held_out=rows(32, held_out=True),
    reward="last_number",
    max_new_tokens=32,
    chat=True,
)
