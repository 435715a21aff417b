"""How positive the sentiment of a response is."""

from collections.abc import Sequence
from functools import cache

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from textenv.episode import Episode
from textenv.rewards.check import Reward


def sentiment_reward() -> Reward:
    """VADER's compound score of the response: -1 the most negative, 0 neutral, 1 the most positive.

    VADER looks words up in a lexicon and has rules for negations, emphasis and emoji. An empty
    response is neutral. The prompt is not scored.

    Source:
        Hutto and Gilbert (2014), "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
        of Social Media Text".
    """
    return sentiment


def sentiment(episodes: Sequence[Episode]) -> list[float]:
    return [sentiment_of(episode.response) for episode in episodes]


def sentiment_of(text: str) -> float:
    """VADER's compound score of a text."""
    return _analyzer().polarity_scores(text)["compound"]


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()  # which reads its lexicon
