"""LastWord-v0: end a film review with one word. One in fifty of the untouched model's does."""

from collections.abc import Sequence

from textenv.tasks.drawing import Row
from textenv.tasks.sentiment import HELD_OUT_OPENINGS, OPENINGS
from textenv.tasks.spec import TaskSpec

WORD, ROWS = "story", 16


def rows(openings: Sequence[str]) -> list[Row]:
    """Rows with the columns ``prompt``, an opening, and ``answer``, the word."""
    return [{"prompt": opening, "answer": WORD} for opening in openings[:ROWS]]


TASK = TaskSpec(
    id="LastWord-v0",
    description=f'End a film review with the word "{WORD}".',
    prompts=rows(OPENINGS),
    held_out=rows(HELD_OUT_OPENINGS),
    reward="last_word",
    max_new_tokens=24,
    kl_coef=0.1,
)
