"""NoisySentiment-v0: learn a style from a judge that errs, and be judged by one that does not.

The rows to learn from say how large the judge's error is; as that of a reward model, the error is a
fixed number for each text, however often it is scored. Held-out rows have none, so that evaluations
and optimum are those of the sentiment itself.
"""

import hashlib
from collections.abc import Sequence
from statistics import NormalDist

from textenv.episode import Episode
from textenv.tasks.drawing import Row
from textenv.tasks.sentiment import HELD_OUT_OPENINGS, OPENINGS
from textenv.tasks.spec import TaskSpec

ERROR = 0.5  # standard deviation; that of the untouched model's sentiment is 0.4


def rows(openings: Sequence[str], error: float) -> list[Row]:
    """Rows with the columns ``prompt``, an opening, and ``error``, the standard deviation of the
    judge's error."""
    return [{"prompt": opening, "error": error} for opening in openings]


def score(episodes: Sequence[Episode]) -> list[float]:
    """The sentiment of the response plus the judge's error, which is normally distributed over
    texts; 0 for prompts without that column."""
    from textenv.rewards.library.sentiment_reward import sentiment

    return [
        exact + episode.data.get("error", 0.0) * _standard_normal(episode.prompt + episode.response)
        for exact, episode in zip(sentiment(episodes), episodes, strict=True)
    ]


def _standard_normal(text: str) -> float:
    """The same number for the same text, and an independent one for any other."""
    drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
    return NormalDist().inv_cdf((drawn + 0.5) / 2**32)


TASK = TaskSpec(
    id="NoisySentiment-v0",
    description="Continue a film review positively, taught by a judge that errs.",
    prompts=rows(OPENINGS, ERROR),
    held_out=rows(HELD_OUT_OPENINGS, 0.0),
    reward="textenv.tasks.noisy_sentiment:score",
    max_new_tokens=24,
    kl_coef=0.1,
)
