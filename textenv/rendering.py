"""Text for the terminal, each token coloured by a number."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenv.prompts import EncodedPrompt
from textenv.token_table import TokenTable, to_numpy

RESET = "\x1b[0m"
# Background colours of a terminal with 256 colours, from weak to strong.
REDS = (224, 217, 210, 203, 196)
GREENS = (194, 157, 120, 83, 46)


class Renderer:
    """Stores a number for each token, and renders the rows of a token table coloured by them.

    Args:
        num_rows: B, the number of rows.
        max_new_tokens: the largest number of tokens in a response.
        tokenizer: decodes the tokens.
    """

    def __init__(self, num_rows: int, max_new_tokens: int, tokenizer: Any):
        self.numbers = np.zeros((num_rows, max_new_tokens))
        self.tokenizer = tokenizer

    def begin(self, rows: np.ndarray) -> None:
        """Clear the numbers of rows that are reset."""
        self.numbers[rows] = 0

    def remember(
        self, table: TokenTable, waiting: np.ndarray | None, rewards: Any, infos: dict[str, Any]
    ) -> None:
        """Store a number for each token of a step: its KL, or its reward if there is no KL.

        Args:
            table: the token table after the step.
            waiting: ``[B]`` bool, rows that got no token in this step; None if all got one.
            rewards, infos: those of the step. With batch scoring infos hold all tokens at once.
        """
        if "token_rewards" in infos:
            numbers = to_numpy(infos.get("token_kl", infos["token_rewards"]))
            self.numbers[:, : numbers.shape[1]] = numbers
            return
        rows = np.arange(len(self.numbers)) if waiting is None else np.flatnonzero(~waiting)
        at = to_numpy(table.response_lengths())[rows] - 1
        self.numbers[rows, at] = to_numpy(infos.get("kl", rewards))[rows]

    def render(self, table: TokenTable, prompts: Sequence[EncodedPrompt]) -> tuple[str, ...]:
        """Each row's text, with a plain prompt and a coloured response."""
        tokens, lengths = to_numpy(table.tokens), to_numpy(table.lengths)
        texts = []
        for row, prompt in enumerate(prompts):
            response = tokens[row, len(prompt.ids) : lengths[row]]
            pieces = [self.tokenizer.decode([token]) for token in response]
            texts.append(
                printable(prompt.text)
                + coloured([printable(p) for p in pieces], self.numbers[row, : len(pieces)])
            )
        return tuple(texts)


def printable(text: str) -> str:
    """The text with its control characters escaped, except line breaks and tabs.

    They could change the terminal's title, colours, or what stands above.
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) != "Cc"
        else f"\\x{ord(character):02x}"
        for character in text
    )


def coloured(pieces: Sequence[str], numbers: Sequence[float] | np.ndarray) -> str:
    """The pieces as one text, those with a positive number on green, with a negative one on red.

    The strength of the colour depends on the size of the number relative to the largest one.
    """
    largest = max((abs(number) for number in numbers), default=0)
    text = ""
    for piece, number in zip(pieces, numbers, strict=True):
        if number == 0:
            text += piece
            continue
        palette = GREENS if number > 0 else REDS
        strength = min(int(abs(number) / largest * len(palette)), len(palette) - 1)
        text += f"\x1b[30;48;5;{palette[strength]}m{piece}{RESET}"
    return text
