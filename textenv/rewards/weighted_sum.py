"""Several rewards in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np

from textenv.episode import Episode
from textenv.rewards import NamedReward, score_episodes


class WeightedSum:
    """The sum of weight times score over its parts.

    Each part is called with the whole batch and checked by itself, so that an error names the part
    at fault.

    Args:
        parts: Resolved rewards with their weights. A negative weight makes a penalty.

    Raises:
        ValueError: If there are no parts, or a weight is not a finite number.
    """

    def __init__(self, parts: Sequence[tuple[NamedReward, float]]):
        if not parts:
            raise ValueError("reward is an empty sum: give at least one pair of reward and weight.")
        for reward, weight in parts:
            if not isinstance(weight, Real) or not math.isfinite(weight):
                raise ValueError(
                    f"the weight of reward {reward.name!r} is {weight!r}: give a finite number."
                )
        self.parts = tuple(parts)
        self.name = " + ".join(f"{weight:g}*{reward.name}" for reward, weight in parts)

    def __call__(self, episodes: Sequence[Episode]) -> np.ndarray:
        return sum(weight * score_episodes(reward, episodes) for reward, weight in self.parts)
