"""FifteenWords-v0: write so many words, and stop. One in thirty of the untouched model's reviews
has them, and most are too short by five."""

from collections.abc import Sequence

from textenv.episode import Episode
from textenv.tasks.drawing import Row
from textenv.tasks.sentiment import HELD_OUT_OPENINGS, OPENINGS
from textenv.tasks.spec import TaskSpec

WORDS, ROWS = 15, 16
NEAR = 5  # words too many or too few, at which the score is 0


def rows(openings: Sequence[str]) -> list[Row]:
    """Rows with the column ``prompt``, an opening, which does not count."""
    return [{"prompt": opening} for opening in openings[:ROWS]]


def score(episodes: Sequence[Episode]) -> list[float]:
    """1 for a response that ends after fifteen words, 0.2 less for each word too many or too few,
    and 0 for one that does not end."""
    return [
        max(0.0, 1 - abs(len(episode.response.split()) - WORDS) / NEAR)
        if episode.finish_reason == "stop"
        else 0.0
        for episode in episodes
    ]


TASK = TaskSpec(
    id="FifteenWords-v0",
    description="Go on with a film review by fifteen words, no more and no fewer.",
    prompts=rows(OPENINGS),
    held_out=rows(HELD_OUT_OPENINGS),
    reward="textenv.tasks.fifteen_words:score",
    max_new_tokens=40,
    kl_coef=0.1,
)
