"""How many of the wanted words a response contains."""

import re
from collections.abc import Sequence
from functools import partial

from textenv.episode import Episode
from textenv.rewards.check import Reward


def keyword_reward(*keywords: str | int) -> Reward:
    """The fraction of the keywords that occur in the response, in [0, 1].

    A keyword counts once, in upper or lower case, as a whole word: "sea" is not in "seaside".
    It may be a phrase; whole numbers are used as text. The prompt is not searched.
    """
    if not keywords or not all(str(keyword).strip() for keyword in keywords):
        raise ValueError(
            f"keywords={list(keywords)!r} names no words to look for: give at least one, none of "
            "them blank, as in 'keyword(ocean, blue)'."
        )
    # Not `\b`, which never matches beside a keyword's own punctuation, as in "c++".
    words = [re.escape(str(keyword)) for keyword in keywords]
    patterns = [re.compile(rf"(?<!\w){word}(?!\w)", re.IGNORECASE) for word in words]
    return partial(keyword, patterns=patterns)


def keyword(episodes: Sequence[Episode], patterns: Sequence[re.Pattern[str]]) -> list[float]:
    return [
        sum(pattern.search(episode.response) is not None for pattern in patterns) / len(patterns)
        for episode in episodes
    ]
