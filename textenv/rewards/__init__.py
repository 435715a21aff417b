"""Rewards: functions that score finished episodes.

A reward takes all the episodes of a batch and returns one number for each, in their order:

    def no_shouting(episodes):
        return [-float(episode.response.isupper()) for episode in episodes]

Pass such a function directly to an environment. `resolve` makes a reward from each form that a user
may give, `check` calls it and checks its result, `names` lists the rewards that have a name, and
`library` has them, one file each.
"""

from textenv.rewards.check import (
    NamedReward,
    Reward,
    RewardError,
    part_names,
    score_episodes,
    score_in_parts,
)
from textenv.rewards.limits import score_within_limits
from textenv.rewards.names import NAMES
from textenv.rewards.resolve import names_code, resolve_reward

__all__ = [
    "NAMES", "NamedReward", "Reward", "RewardError", "names_code", "part_names",
    "resolve_reward", "score_episodes", "score_in_parts", "score_within_limits",
]  # fmt: skip
