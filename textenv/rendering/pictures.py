"""Text as a picture: dark letters of one width on white, each piece on its own colour."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

COLUMNS = 64  # letters in a line
FEWEST_LINES, MOST_LINES = 4, 30  # even, see `Page`
LETTERS_IN_A_TOKEN = 6  # a guess for the size of a page, on the large side for English
CELL = (10, 24)  # pixels of a letter
MARGIN = 16  # pixels
FONT_SIZE = 16.6  # of DejaVu Sans Mono, whose letters then are as wide as a cell

WHITE, BLACK, GREY = (255, 255, 255), (24, 24, 27), (113, 113, 122)
Colour = tuple[int, int, int]


class Piece(NamedTuple):
    """A part of a text, which may have line breaks, and the colours of its letters and behind them,
    as red, green and blue from 0 to 255."""

    text: str
    letters: Colour = BLACK
    ground: Colour = WHITE


class Page:
    """Draws texts of any length as pictures of one size. A long text shows its end, as a terminal.

    Width and height are multiples of 16, which encoders of videos like. There is room for the
    longest prompt and a response of ``max_new_tokens``.
    """

    def __init__(self, prompts: Iterable[str], max_new_tokens: int):
        import matplotlib
        from PIL import ImageFont

        prompt_lines = max(len(_lines([Piece(prompt)])) for prompt in prompts)
        response_lines = -(-max_new_tokens * LETTERS_IN_A_TOKEN // COLUMNS)
        wanted = min(max(prompt_lines + response_lines, FEWEST_LINES), MOST_LINES)
        self.num_lines = wanted + wanted % 2
        self.size = (COLUMNS * CELL[0] + 2 * MARGIN, self.num_lines * CELL[1] + 2 * MARGIN)
        fonts = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
        self._font = ImageFont.truetype(os.path.join(fonts, "DejaVuSansMono.ttf"), FONT_SIZE)

    def draw(self, pieces: Sequence[Piece]) -> np.ndarray:
        """The picture of a text, uint8 ``[height, width, 3]``."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", self.size, WHITE)
        pen = ImageDraw.Draw(image)
        width, height = CELL
        for number, line in enumerate(_lines(pieces)[-self.num_lines :]):
            left, top = MARGIN, MARGIN + number * height
            for cell in line:
                right = left + cell.width * width
                if cell.ground != WHITE:
                    box = (left, top + 1, right - 1, top + height - 2)
                    pen.rectangle(box, fill=cell.ground)
                at = (left, top + height // 2)
                pen.text(at, cell.text, fill=cell.letters, font=self._font, anchor="lm")
                left = right
        return np.array(image)


class _Cell(NamedTuple):
    """A letter with its accents, one column wide, or two as those of Chinese."""

    text: str
    width: int
    letters: Colour
    ground: Colour


def _lines(pieces: Sequence[Piece]) -> list[list[_Cell]]:
    """The text in lines, which are broken at spaces where there are some."""
    lines: list[list[_Cell]] = [[]]
    for piece in pieces:
        for letter in piece.text.expandtabs(4):
            line, colours = lines[-1], (piece.letters, piece.ground)
            if letter == "\n":  # its own cell shows its colour
                line.append(_Cell("", 1, *colours))
                lines.append([])
            elif unicodedata.combining(letter) and line:
                line[-1] = line[-1]._replace(text=line[-1].text + letter)
            else:
                width = 2 if unicodedata.east_asian_width(letter) in "WF" else 1
                line.append(_Cell(letter, width, *colours))
                # A space may stand in the margin.
                if letter != " " and sum(cell.width for cell in line) > COLUMNS:
                    lines[-1], rest = _broken(line)
                    lines.append(rest)
    return lines


def _broken(line: list[_Cell]) -> tuple[list[_Cell], list[_Cell]]:
    """A line that is too long, broken after its last space, or else before its last letter."""
    spaces = [index for index, cell in enumerate(line) if cell.text == " "]
    at = spaces[-1] + 1 if spaces else len(line) - 1
    return line[:at], line[at:]
