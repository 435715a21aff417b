"""Rewards: functions that score finished episodes.

A reward takes all the episodes of a batch and returns one number for each, in their order:

    def no_shouting(episodes):
        return [-float(episode.response.isupper()) for episode in episodes]

Pass such a function to an environment as it is. `names` lists those that have a name, `resolve`
makes a reward of whatever a user calls one, `check` calls it and checks its answer, and each named
reward has a file of its own.
"""

from textenv.rewards.check import (
    NamedReward,
    Reward,
    RewardError,
    score_episodes,
    score_in_parts,
)
from textenv.rewards.names import NAMES
from textenv.rewards.resolve import names_code, resolve_reward

__all__ = [
    "NAMES",
    "NamedReward",
    "Reward",
    "RewardError",
    "names_code",
    "resolve_reward",
    "score_episodes",
    "score_in_parts",
]
