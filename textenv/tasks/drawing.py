"""Draw the rows of a task at random, with a seed, and keep some of them for evaluation."""

import random
import zlib
from collections.abc import Callable
from typing import Annotated, Any

from textenv.arguments import Range, check_ranges

Row = dict[str, Any]
TRIES = 100  # for each row, before the possible items count as used up


def is_held_out(item: str) -> bool:
    """Whether an item belongs to the fifth of all items that is kept for evaluation.

    It depends on the item alone, so that no seed and no size can mix the two parts.
    """
    return zlib.crc32(item.encode()) % 5 == 0


def draw_rows(
    draw: Callable[[random.Random], tuple[str, Any]],
    write: Callable[[Any, random.Random], Row],
    size: Annotated[int, Range(1)],
    seed: Annotated[int, Range(0)],
    held_out: bool,
) -> list[Row]:
    """So many rows with different prompts, all for training or all held out for evaluation.

    The same seed gives the same rows in every process. ``draw`` draws a text that names an item,
    and the item, about which ``write`` writes a row.
    """
    check_ranges(draw_rows, {"size": size, "seed": seed})
    generator = random.Random(seed)
    rows: dict[str, Row] = {}
    for _ in range(TRIES * size):
        name, item = draw(generator)
        if is_held_out(name) == held_out:
            row = write(item, generator)
            rows.setdefault(row["prompt"], row)
            if len(rows) == size:
                return list(rows.values())
    raise ValueError(f"size={size} is too large: only {len(rows)} different rows were found.")
