"""A score of 0, for dialogues in which turns are paid."""

from collections.abc import Sequence

from textenv.episode import Episode
from textenv.rewards.check import Reward


def nothing_reward() -> Reward:
    """0 for every response, where the rewards of turns (`textenv.Reply`) are all that counts."""
    return nothing


def nothing(episodes: Sequence[Episode]) -> list[float]:
    return [0.0] * len(episodes)
