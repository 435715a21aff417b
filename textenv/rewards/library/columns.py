"""The columns of a prompt's row that a reward compares a response with."""

from typing import Any

from textenv.episode import Episode


def column(episode: Episode, name: str) -> Any:
    """The value of a column of the row that the episode's prompt comes from."""
    if name not in episode.data:
        raise ValueError(
            f"the prompt's row has no column {name!r}, only {sorted(episode.data)}: give prompts "
            f"as rows, such as {{'prompt': ..., {name!r}: ...}}"
        )
    return episode.data[name]


def finished(episode: Episode) -> bool:
    """Whether the response stopped by itself, and was not cut off by the token budget."""
    return episode.finish_reason != "length"
