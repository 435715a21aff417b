"""Text for the terminal or as a picture, each token coloured by a number."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from textenv.arrays import Array, to_numpy
from textenv.prompts.load import EncodedPrompt
from textenv.rendering.pictures import GREY, Colour, Page, Piece
from textenv.shown import printable
from textenv.task import TextTask

MODES = ("ansi", "rgb_array")
RESET = "\x1b[0m"
GREY_TEXT = "\x1b[90m"
# Background colours of a terminal with 256 colours, from weak to strong.
REDS = (224, 217, 210, 203, 196)
GREENS = (194, 157, 120, 83, 46)


def checked_mode(render_mode: Any) -> str | None:
    """A render mode that is known, or None."""
    if render_mode is None or render_mode in MODES:
        return render_mode
    names = ", ".join(map(repr, MODES))
    raise ValueError(
        f"render_mode={render_mode!r} is unknown: use {names} or None; for a window, wrap an "
        "environment that renders 'rgb_array' in gymnasium.wrappers.HumanRendering."
    )


class Renderer:
    """Stores a number for each token of B rows, and renders them coloured by it: as pictures if the
    mode is "rgb_array", else as text."""

    def __init__(self, mode: str | None, num_rows: int, task: TextTask):
        self.numbers = np.zeros((num_rows, task.max_new_tokens))
        self.tokenizer, self.task, self.mode = task.tokenizer, task, mode

    @cached_property
    def _page(self) -> Page:
        # Made when it is first needed: stable-baselines3 asks every environment for pictures, and
        # most of them never draw one.
        return Page((printable(p.text) for p in self.task.prompts), self.task.max_new_tokens)

    def begin(self, rows: np.ndarray) -> None:
        """Clear the numbers of rows that are reset."""
        self.numbers[rows] = 0

    def remember(
        self, lengths: Array, waiting: np.ndarray | None, rewards: Array, infos: dict[str, Any]
    ) -> None:
        """Store a number for each token of a step: its KL, or its reward if there is no KL.

        ``lengths`` ``[B]`` are the tokens of the responses after the step, ``waiting`` ``[B]`` the
        rows that got no token in it (None: all got one). With batch scoring infos hold all tokens
        at once.
        """
        if "token_rewards" in infos:
            numbers = to_numpy(infos.get("token_kl", infos["token_rewards"]))
            self.numbers[:, : numbers.shape[1]] = numbers
            return
        rows = np.arange(len(self.numbers)) if waiting is None else np.flatnonzero(~waiting)
        at = to_numpy(lengths)[rows] - 1
        self.numbers[rows, at] = to_numpy(infos.get("kl", rewards))[rows]

    def render(
        self,
        tokens: Array,
        lengths: Array,
        prompts: Sequence[EncodedPrompt],
        own_tokens: Array | None = None,
    ) -> tuple[Any, ...]:
        """Each row's text, with a plain prompt and a coloured response; or pictures uint8
        ``[height, width, 3]`` of one size. Tokens are ``[B, L]``, lengths ``[B]``, and
        ``own_tokens`` ``[B, L]`` is 1 where they are not those of replies, which are grey."""
        tokens, lengths = to_numpy(tokens), to_numpy(lengths)
        rendered: list[Any] = []
        for row, prompt in enumerate(prompts):
            response = slice(len(prompt.ids), lengths[row])
            text = printable(prompt.text)
            pieces = [printable(self.tokenizer.decode([token])) for token in tokens[row, response]]
            own = np.ones(len(pieces), np.bool_)
            if own_tokens is not None:
                own = to_numpy(own_tokens)[row, response] == 1
            numbers = np.zeros(len(pieces))
            numbers[own] = self.numbers[row, : own.sum()]
            if self.mode == "rgb_array":
                drawn = [
                    piece if mine else Piece(piece.text, GREY)
                    for piece, mine in zip(on_colours(pieces, numbers), own, strict=True)
                ]
                rendered.append(self._page.draw([Piece(text, GREY), *drawn]))
            else:
                shown = [
                    piece if mine else f"{GREY_TEXT}{piece}{RESET}"
                    for piece, mine in zip(pieces, own, strict=True)
                ]
                rendered.append(text + coloured(shown, numbers))
        return tuple(rendered)


def coloured(pieces: Sequence[str], numbers: Sequence[float] | np.ndarray) -> str:
    """The pieces as one text for a terminal, each on the colour of its number (`colours`)."""
    return "".join(
        piece if colour is None else f"\x1b[30;48;5;{colour}m{piece}{RESET}"
        for piece, colour in zip(pieces, colours(numbers), strict=True)
    )


def on_colours(pieces: Sequence[str], numbers: Sequence[float] | np.ndarray) -> list[Piece]:
    """The pieces for a picture, each on the colour of its number (`colours`)."""
    return [
        Piece(piece) if colour is None else Piece(piece, ground=rgb(colour))
        for piece, colour in zip(pieces, colours(numbers), strict=True)
    ]


def colours(
    numbers: Sequence[float] | np.ndarray,
    positive: Sequence[int] = GREENS,
    negative: Sequence[int] = REDS,
    least: float = 0.0,
) -> list[int | None]:
    """A terminal's colour for each number, whose strength is relative to the largest number.

    Positive and negative numbers have palettes from weak to strong. A number up to the share
    ``least`` of the largest one has no colour (None).
    """
    largest = max((abs(number) for number in numbers), default=0)
    found: list[int | None] = []
    for number in numbers:
        if abs(number) <= least * largest:
            found.append(None)
            continue
        palette = positive if number > 0 else negative
        strength = int(abs(number) / largest * len(palette))
        found.append(palette[min(strength, len(palette) - 1)])
    return found


def rgb(colour: int) -> Colour:
    """Red, green and blue of a colour from 16 to 231 of a terminal with 256, a cube of 6·6·6."""
    levels = (0, 95, 135, 175, 215, 255)
    number = colour - 16
    return levels[number // 36], levels[number // 6 % 6], levels[number % 6]
