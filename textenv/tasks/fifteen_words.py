"""FifteenWords-v0: write so many words, and stop. One in thirty of the untouched model's reviews
has them."""

from collections.abc import Sequence

from textenv.episode import Episode
from textenv.tasks.drawing import Row
from textenv.tasks.sentiment import HELD_OUT_OPENINGS, OPENINGS
from textenv.tasks.spec import TaskSpec

WORDS, ROWS = 15, 16


def rows(openings: Sequence[str]) -> list[Row]:
    """Rows with the column ``prompt``, an opening, which does not count."""
    return [{"prompt": opening} for opening in openings[:ROWS]]


def score(episodes: Sequence[Episode]) -> list[float]:
    """1 for a response that ends after fifteen words, else 0."""
    return [
        float(len(episode.response.split()) == WORDS and episode.finish_reason == "stop")
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
