"""Several rewards in one."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from textenv.episode import Episode
from textenv.rewards.check import NamedReward, score_episodes


class WeightedSum:
    """The sum of weight times score over its parts.

    Each part is called with the whole batch and checked separately, so that an error names the part
    that caused it.

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
        return self.combine(self.score_parts(episodes))

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts, each once."""
        return tuple(name for name, _, _ in self._named_parts())

    def score_parts(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """The scores of each part by its name, without its weight."""
        return {name: score_episodes(part, episodes) for name, part, _ in self._named_parts()}

    def combine(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The sum of weight times score over the result of `score_parts`."""
        return np.sum([weight * scores[name] for name, _, weight in self._named_parts()], axis=0)

    def _named_parts(self) -> list[tuple[str, NamedReward, float]]:
        """Parts with the same name (two functions called "score") are numbered to keep them all."""
        counts = Counter(reward.name for reward, _ in self.parts)
        named = []
        for number, (reward, weight) in enumerate(self.parts, start=1):
            alone = counts[reward.name] == 1
            named.append((reward.name if alone else f"{reward.name} {number}", reward, weight))
        return named
