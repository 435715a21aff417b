"""Several rewards in one."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from textenv.episode import Episode
from textenv.rewards.check import NamedReward, score_episodes


class WeightedSum:
    """The sum of weight times score over its parts.

    Each part is called with the whole batch and checked separately, so that an error names the part
    that caused it. A negative weight makes a penalty.
    """

    def __init__(self, parts: Sequence[tuple[NamedReward, float]]):
        if not parts:
            raise ValueError("reward is an empty sum: give at least one pair of reward and weight.")
        for reward, weight in parts:
            if not isinstance(weight, Real) or not math.isfinite(weight):
                raise ValueError(
                    f"the weight of reward {reward.name!r} is {weight!r}: give a finite number."
                )
        self.name = " + ".join(f"{weight:g}*{reward.name}" for reward, weight in parts)
        # Parts with the same name (two functions called "score") are numbered to keep them all.
        counts = Counter(reward.name for reward, _ in parts)
        self.parts: dict[str, tuple[NamedReward, float]] = {}
        for number, (reward, weight) in enumerate(parts, start=1):
            name = reward.name if counts[reward.name] == 1 else f"{reward.name} {number}"
            while name in self.parts:
                name = f"{name} {number}"
            self.parts[name] = reward, weight
        self.part_names = tuple(self.parts)

    def __call__(self, episodes: Sequence[Episode]) -> np.ndarray:
        return self.combine(self.score_parts(episodes))

    def check_row(self, row: Mapping[str, Any]) -> None:
        for reward, _ in self.parts.values():
            reward.check_row(row)

    def score_parts(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """The scores of each part by its name, without its weight."""
        return {name: score_episodes(part, episodes) for name, (part, _) in self.parts.items()}

    def combine(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The sum of weight times score over the result of `score_parts`."""
        weighted = [weight * scores[name] for name, (_, weight) in self.parts.items()]
        return np.sum(weighted, axis=0)
