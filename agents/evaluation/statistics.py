"""Numbers of few runs: means, differences, and how sure they are.

Every interval is one of Student's t, or of a test that goes with it. Percentile bootstraps are too
narrow here: of five values, a 95 % bootstrap interval covers the mean in about 85 % of the cases.
A slow test counts how often each of these intervals covers the truth, with 3, 5 and 10 seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Values = Sequence[float] | np.ndarray  # one per run

LEVEL = 0.95  # of every interval, unless another one is asked for


@dataclass(frozen=True)
class Interval:
    """A number and its interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Estimate:
    """An estimated number, and how sure it is."""

    value: float
    variance: float  # of the estimate
    freedom: float  # degrees of freedom of that variance

    def interval(self, level: float = LEVEL) -> Interval:
        """Its t-interval; infinite without a degree of freedom, as nothing is known of the
        spread."""
        from scipy.stats import t

        half = math.inf
        if self.freedom > 0:
            half = float(t.ppf((1 + level) / 2, self.freedom)) * math.sqrt(self.variance)
        return Interval(self.value, self.value - half, self.value + half)


@dataclass(frozen=True)
class Difference:
    """How far a candidate is above another one."""

    better: str
    worse: str
    interval: Interval  # of the difference of their means, at the level of all pairs together
    # Of the test that they are equal, corrected for all pairs; below 5 % where the interval leaves
    # 0 out.
    p_value: float


def interval(values: Values, level: float = LEVEL) -> Interval:
    """The mean of independent values, one per seed, and its t-interval."""
    return mean_of(values).interval(level)


def mean_of(values: Values) -> Estimate:
    """The mean of independent values, as an estimate of what they are drawn from."""
    sample = np.asarray(values, dtype=float)
    variance = float(sample.var(ddof=1)) / len(sample) if len(sample) > 1 else math.inf
    return Estimate(float(sample.mean()), variance, len(sample) - 1)


def interquartile_mean(values: Values, level: float = LEVEL) -> Interval:
    """The mean of the middle half of the values, which single failed runs do not move.

    Agarwal et al. 2021 recommend it for comparisons. With fewer than four values nothing is left
    out. The interval is that of a trimmed mean (Tukey and McLaughlin 1963).
    """
    from scipy.stats.mstats import trimmed_mean_ci

    sample = np.asarray(values, dtype=float)
    cut = len(sample) // 4
    mean = float(np.sort(sample)[cut : len(sample) - cut].mean())
    if cut == 0 or np.ptp(sample) == 0:
        return interval(sample, level)
    low, high = trimmed_mean_ci(sample, limits=(0.25, 0.25), alpha=1 - level)
    return Interval(mean, float(low), float(high))


def paired_difference(first: Values, second: Values, level: float = LEVEL) -> Interval:
    """The mean of ``first − second``, paired by seed or by prompt, and its t-interval. What a pair
    has in common, such as a hard prompt, does not widen it."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs.")
    return interval(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), level)


def probability_of_improvement(first: Values, second: Values, level: float = LEVEL) -> Interval:
    """P(a run of ``first`` is above a run of ``second``), ties half (Agarwal et al. 2021, sec. 4).

    The share of all pairs of runs, U / (m·n). The interval is a score interval (Newcombe 2006,
    method 5), which also holds at 0 and at 1.
    """
    from scipy.optimize import brentq
    from scipy.stats import mannwhitneyu, norm

    m, n = len(first), len(second)
    share = float(mannwhitneyu(first, second).statistic) / (m * n)
    z, middle = norm.ppf((1 + level) / 2), (m + n) / 2

    def beyond(theta: float) -> float:
        """How much farther the share is from ``theta`` than z standard errors allow."""
        variance = theta * (1 - theta) / (m * n)
        variance *= 1 + (middle - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (share - theta) ** 2 - z**2 * variance

    aside = 1e-9  # at 0 and 1 the variance is 0, so that they are solutions, too
    low = 0.0 if share == 0 else float(brentq(beyond, 0.0, share - aside))
    high = 1.0 if share == 1 else float(brentq(beyond, share + aside, 1.0))
    return Interval(share, low, high)


def all_differences(results: Mapping[str, Values], level: float = LEVEL) -> list[Difference]:
    """Every two candidates, by the means of ``results``, one number per seed, at least 2, for each
    of them; see `differences`."""
    if any(len(values) < 2 for values in results.values()):
        raise ValueError("A comparison needs at least 2 seeds of each candidate.")
    return differences({name: mean_of(values) for name, values in results.items()}, level)


def differences(estimates: Mapping[str, Estimate], level: float = LEVEL) -> list[Difference]:
    """Every two candidates, with intervals and p-values that hold for all pairs together.

    The procedure of Games and Howell (1976): Welch's t with the studentised range, which needs
    neither equal variances nor equal numbers. All intervals hold at once with the probability
    ``level``. An interval leaves 0 out where, and only where, the p-value is below ``1 − level``.

    In each pair the one with the higher value is first; the pair with the smallest p-value is
    first.
    """
    from scipy.stats import studentized_range

    names = sorted(estimates, key=lambda name: -estimates[name].value)
    found = []
    for better, worse in combinations(names, 2):
        pair = estimates[better], estimates[worse]
        difference = pair[0].value - pair[1].value
        variance = pair[0].variance + pair[1].variance
        if variance == 0:
            p, half = float(difference == 0), 0.0
        else:  # the degrees of freedom of the sum (Welch)
            freedom = variance**2 / sum(one.variance**2 / one.freedom for one in pair)
            spread = math.sqrt(variance / 2)
            p = float(studentized_range.sf(difference / spread, len(names), freedom))
            half = float(studentized_range.ppf(level, len(names), freedom)) * spread
        about = Interval(difference, difference - half, difference + half)
        found.append(Difference(better, worse, about, p))
    return sorted(found, key=lambda one: one.p_value)
