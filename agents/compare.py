"""Compare algorithms on several seeds each: means, differences and their bootstrap intervals.

With few seeds bootstrap intervals are too narrow: with five seeds, a 95 % interval covers about
90 %. A t-test therefore decides which algorithms differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, ttest_ind


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of a few runs and its 95 % percentile-bootstrap interval.

    Args:
        values: one value per seed, at least 2.
        seed: the seed of the resampling.
    """
    sample = np.asarray(values, dtype=float)
    if np.ptp(sample) == 0:  # all values are equal: nothing to resample
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
    return Interval(float(samples[0].mean() - samples[1].mean()), float(low), float(high))


def significant_differences(
    results: Mapping[str, Sequence[float]], level: float = 0.05
) -> list[tuple[str, str, float]]:
    """The pairs of candidates that differ: Welch's t-test, with Holm's correction for many pairs.

    Args:
        results: for each candidate one number per seed, at least 2.
        level: the probability of returning any pair that does not differ.

    Returns:
        (better, worse, corrected p) for each such pair, the smallest p first.

    Raises:
        ValueError: a candidate has fewer than 2 results, so its variance is unknown.
    """
    if any(len(values) < 2 for values in results.values()):
        raise ValueError("A comparison needs at least 2 seeds of each candidate.")
    names = sorted(results, key=lambda name: -float(np.mean(results[name])))
    pairs = []
    for i, better in enumerate(names):
        for worse in names[i + 1 :]:
            p = ttest_ind(results[better], results[worse], equal_var=False).pvalue
            pairs.append((better, worse, float(p)))
    significant, largest = [], 0.0
    for rank, (better, worse, p) in enumerate(sorted(pairs, key=lambda pair: pair[2])):
        largest = max(largest, min(p * (len(pairs) - rank), 1.0))  # Holm 1979
        if largest >= level:
            break
        significant.append((better, worse, largest))
    return significant
