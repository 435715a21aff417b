"""Rewards that compare a response with columns of its prompt's row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textenv.episode import Episode


@dataclass(frozen=True)
class RowReward:
    """1 for a finished response that is right, else 0.

    Attributes:
        read: what a row asks for, from its columns; a ValueError says why it cannot be read. Every
            row of the prompts is read once when an environment is made, before anything is learned.
        is_right: whether a response is that.
    """

    read: Callable[[Mapping[str, Any]], Any]
    is_right: Callable[[str, Any], bool]

    def check_row(self, row: Mapping[str, Any]) -> None:
        self.read(row)

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        return [
            float(self.is_right(episode.response, self.read(episode.data)) and finished(episode))
            for episode in episodes
        ]


def column(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column of a prompt's row."""
    if name not in row:
        raise ValueError(
            f"the prompt's row has no column {name!r}, only {sorted(row)}: give prompts "
            f"as rows, such as {{'prompt': ..., {name!r}: ...}}"
        )
    return row[name]


def finished(episode: Episode) -> bool:
    """Whether the response stopped by itself, and was not cut off by the token budget."""
    return episode.finish_reason != "length"
