"""Text for the terminal, each token coloured by a number."""

from __future__ import annotations

from collections.abc import Sequence

RESET = "\x1b[0m"
# From the 256 colours of a terminal: backgrounds from faint to strong.
REDS = (224, 217, 210, 203, 196)
GREENS = (194, 157, 120, 83, 46)


def coloured(pieces: Sequence[str], numbers: Sequence[float]) -> str:
    """The pieces in a row, those with a positive number on green, with a negative one on red.

    The strength of the colour is the number's share of the largest one.
    """
    largest = max(map(abs, numbers), default=0)
    text = ""
    for piece, number in zip(pieces, numbers, strict=True):
        if number == 0:
            text += piece
            continue
        palette = GREENS if number > 0 else REDS
        strength = min(int(abs(number) / largest * len(palette)), len(palette) - 1)
        text += f"\x1b[30;48;5;{palette[strength]}m{piece}{RESET}"
    return text
