"""What the runs on several tasks say together (Agarwal et al. 2021).

Returns are normalised: in each task 0 is the untouched reference and 1 the optimum. ``tasks`` has
such numbers of one candidate, an array ``[runs]`` for each task, of at least two runs.

Intervals say what other seeds would give on these tasks, not what other tasks would. They rest on a
bootstrap within each task that draws n − 1 of its n runs, by which the variance of a mean is right
(Rao and Wu 1988, section 2); one that draws n makes it too small, by a third for three runs. The
interval is then Student's t. A slow test counts how often it covers the truth.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from agents.evaluation import statistics
from agents.evaluation.statistics import LEVEL, Difference, Estimate, Interval

REPEATS = 2000  # of the bootstrap

Tasks = Sequence[np.ndarray]
Aggregate = Callable[[np.ndarray], np.ndarray]  # of runs ``[..., runs]``, a number each ``[...]``


def interquartile_mean(runs: np.ndarray) -> np.ndarray:
    """The mean of the middle half of the runs of all tasks (Agarwal et al. 2021, section 4.3)."""
    from scipy.stats import trim_mean

    return trim_mean(runs, 0.25, axis=-1)


def optimality_gap(runs: np.ndarray) -> np.ndarray:
    """How far the runs stay below the optimum on average; above it counts as at it (ibid.)."""
    return np.maximum(1 - runs, 0).mean(axis=-1)


def estimate(tasks: Tasks, aggregate: Aggregate) -> Estimate:
    """An aggregate of a candidate's runs, and how sure it is.

    Raises:
        ValueError: a task has fewer than two runs.
    """
    if any(len(runs) < 2 for runs in tasks):
        raise ValueError("An aggregate needs at least 2 seeds of each task.")
    generator = np.random.default_rng(0)  # the same runs have the same interval
    drawn = [generator.choice(runs, (REPEATS, len(runs) - 1)) for runs in tasks]
    # Degrees of freedom as of a sum of the tasks' means (Satterthwaite 1946): few where the runs of
    # one task differ much more than those of the others.
    each = [statistics.mean_of(runs) for runs in tasks]
    whole = sum(mean.variance for mean in each)
    parts = sum(mean.variance**2 / mean.freedom for mean in each)
    return Estimate(
        value=float(aggregate(np.concatenate(tasks))),
        variance=float(aggregate(np.concatenate(drawn, axis=1)).var(ddof=1)),
        freedom=whole**2 / parts if parts else sum(mean.freedom for mean in each),
    )


def interval(tasks: Tasks, aggregate: Aggregate, level: float = LEVEL) -> Interval:
    """An aggregate of a candidate's runs with its interval."""
    return estimate(tasks, aggregate).interval(level)


def all_differences(
    results: Mapping[str, Tasks], aggregate: Aggregate = interquartile_mean, level: float = LEVEL
) -> list[Difference]:
    """Every two candidates, as `agents.evaluation.statistics.all_differences` has them."""
    estimates = {name: estimate(tasks, aggregate) for name, tasks in results.items()}
    return statistics.differences(estimates, level)


def probability_of_improvement(first: Tasks, second: Tasks) -> float:
    """P(a run of ``first`` is above a run of ``second`` on the same task), ties half, the mean over
    the tasks (Agarwal et al. 2021, section 4.4)."""
    chances = [
        np.mean((one[:, None] > other) + (one[:, None] == other) / 2)
        for one, other in zip(first, second, strict=True)
    ]
    return float(np.mean(chances))


def profile(tasks: Tasks, levels: np.ndarray) -> list[Interval]:
    """At each level the share of runs that are above it (Agarwal et al. 2021, section 4.2), with
    the interval of each point alone."""

    def above(level: float) -> Aggregate:
        return lambda runs: (runs > level).mean(axis=-1)

    return [interval(tasks, above(level)) for level in levels]
