"""Compare algorithms on several seeds each: means, differences and their bootstrap intervals.

With few seeds such intervals are too narrow, if anything: five seeds can show a large difference,
not a small one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside, which for a difference means: significant at 5 %."""
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of a few runs and its 95 % percentile-bootstrap interval.

    Args:
        values: one a seed, at least 2.
        seed: of the resampling.
    """
    sample = np.asarray(values, dtype=float)
    if np.ptp(sample) == 0:  # nothing varies, nothing to resample
        return Interval(*[float(sample[0])] * 3)
    result = bootstrap((sample,), np.mean, method="percentile", rng=np.random.default_rng(seed))
    low, high = result.confidence_interval
    return Interval(float(sample.mean()), float(low), float(high))


def difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Interval:
    """Mean of ``first`` minus mean of ``second``, of independent runs, with its interval."""

    def gap(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis=axis) - b.mean(axis=axis)

    samples = tuple(np.asarray(values, dtype=float) for values in (first, second))
    if all(np.ptp(sample) == 0 for sample in samples):
        return Interval(*[float(samples[0][0] - samples[1][0])] * 3)
    result = bootstrap(samples, gap, method="percentile", rng=np.random.default_rng(seed))
    low, high = result.confidence_interval
    return Interval(float(gap(*samples)), float(low), float(high))


def significant_differences(
    results: Mapping[str, Sequence[float]],
) -> list[tuple[str, str, Interval]]:
    """The pairs of candidates whose difference has an interval without 0, the better one first."""
    pairs = []
    names = sorted(results, key=lambda name: -float(np.mean(results[name])))
    for i, better in enumerate(names):
        for worse in names[i + 1 :]:
            gap = difference(results[better], results[worse])
            if gap.excludes_zero:
                pairs.append((better, worse, gap))
    return pairs
