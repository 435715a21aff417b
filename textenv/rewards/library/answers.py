"""Whether a response ends with the right answer, a number or a word."""

import re
from collections.abc import Sequence

from textenv.episode import Episode
from textenv.rewards.check import Reward
from textenv.rewards.library.columns import column, finished

# A minus sign belongs to the number if no letter, digit or bracket stands before it: "4-7" is a
# difference.
NUMBER = re.compile(r"(?:(?<![\w)])[-−])?[0-9]+(?:\.[0-9]+)?")
WORD = re.compile(r"[^\W\d_]+")


def last_number_reward() -> Reward:
    """1 if the last number of a finished response is the column ``answer``, else 0.

    Only the last number counts, so that listing many numbers gains nothing. Numbers are compared by
    their values ("12", "12." and "12.0" are equal); words for numbers are not read. A response that
    the token budget cut off scores 0, because its last number may be a part of one.
    """
    return last_number


def last_number(episodes: Sequence[Episode]) -> list[float]:
    return [
        float(finished(episode) and number_in(episode.response) == _number_of(episode))
        for episode in episodes
    ]


def last_word_reward() -> Reward:
    """1 if the last word of a finished response is the column ``answer``, else 0.

    A word is a sequence of letters, in upper or lower case. Only the last one counts. A response
    that the token budget cut off scores 0, because its last word may be a part of one.
    """
    return last_word


def last_word(episodes: Sequence[Episode]) -> list[float]:
    return [
        float(finished(episode) and word_in(episode.response) == _word_of(episode))
        for episode in episodes
    ]


def number_in(text: str) -> float | None:
    """The last number of a text; None if it has none."""
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace("−", "-")) if numbers else None


def word_in(text: str) -> str | None:
    """The last word of a text in lower case; None if it has none."""
    words = WORD.findall(text.lower())
    return words[-1] if words else None


def _number_of(episode: Episode) -> float:
    answer = column(episode, "answer")
    try:
        return float(answer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the column answer holds {answer!r}: it must be a number") from error


def _word_of(episode: Episode) -> str:
    answer = column(episode, "answer")
    if not isinstance(answer, str) or not WORD.fullmatch(answer):
        raise ValueError(f"the column answer holds {answer!r}: it must be one word")
    return answer.lower()
