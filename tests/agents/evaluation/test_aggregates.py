"""Aggregates over tasks: values by hand, and how often their intervals are right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from agents.evaluation import aggregates
from agents.evaluation.aggregates import interquartile_mean, optimality_gap

TWO = [np.array([0.0, 1.0]), np.array([0.5, 1.5])]
MIDDLES = np.array([0.8, 0.55, 0.3, 0.3, 0.6])  # of five tasks


def mean(runs):
    return runs.mean(axis=-1)


def test_aggregates_by_hand():
    runs = np.concatenate(TWO)
    assert interquartile_mean(runs) == pytest.approx((0.5 + 1.0) / 2)
    assert optimality_gap(runs) == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert aggregates.interval(TWO, interquartile_mean).mean == pytest.approx(0.75)
    assert [point.mean for point in aggregates.profile(TWO, np.array([-1, 0.5, 2]))] == [1, 0.5, 0]


def test_the_probability_of_improvement_is_the_mean_over_tasks():
    other = [np.array([0.0, 0.0]), np.array([2.0, 2.0])]  # a tie and a win, then never
    assert aggregates.probability_of_improvement(TWO, other) == pytest.approx((0.75 + 0) / 2)
    assert aggregates.probability_of_improvement(other, TWO) == pytest.approx((0.25 + 1) / 2)


def test_the_error_of_a_mean_is_that_of_stratified_samples():
    tasks = [np.array([0.1, 0.3, 0.8]), np.array([0.5, 0.6, 0.65])]
    each = np.array([runs.var(ddof=1) / len(runs) for runs in tasks])
    found = aggregates.estimate(tasks, mean)
    assert found.variance == pytest.approx(each.sum() / 4, rel=0.1)  # 2,000 draws
    freedom = each.sum() ** 2 / (each**2 / 2).sum()
    assert found.freedom == pytest.approx(freedom)
    half = t.ppf(0.975, freedom) * np.sqrt(found.variance)
    assert found.interval().half_width == pytest.approx(half)


def test_the_same_runs_have_the_same_interval():
    assert aggregates.interval(TWO, mean) == aggregates.interval(TWO, mean)


def test_runs_that_are_all_equal_have_no_width():
    equal = [np.full(3, 0.5), np.full(3, 0.7)]
    assert aggregates.interval(equal, interquartile_mean).half_width == pytest.approx(0)


def test_a_single_seed_says_nothing():
    with pytest.raises(ValueError, match="at least 2 seeds of each task"):
        aggregates.interval([np.array([1.0]), np.array([1.0, 2.0])], mean)


def drawn(generator, spreads, seeds):
    noise = generator.standard_normal((len(MIDDLES), seeds)) * np.array(spreads)[:, None]
    return list(MIDDLES[:, None] + noise)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    "spreads", [[0.05] * 5, [0.02, 0.1, 0.2, 0.03, 0.15], [0.01, 0.01, 0.01, 0.01, 0.3]], ids=str
)
def test_intervals_cover_the_truth_as_often_as_they_say(seeds, spreads, monkeypatch):
    monkeypatch.setattr(aggregates, "REPEATS", 500)
    generator = np.random.default_rng(seeds)
    for aggregate in (mean, interquartile_mean, optimality_gap):
        many = [np.concatenate(drawn(generator, spreads, seeds)) for _ in range(5000)]
        truth = aggregate(np.array(many)).mean()
        found = [
            aggregates.interval(drawn(generator, spreads, seeds), aggregate) for _ in range(400)
        ]
        share = np.mean([one.low <= truth <= one.high for one in found])
        assert 0.87 < share < 0.99, (aggregate.__name__, share)  # 400 draws tell it to ± 0.02


@pytest.mark.slow
def test_equal_agents_are_rarely_called_different(monkeypatch):
    monkeypatch.setattr(aggregates, "REPEATS", 500)
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        suite = {name: drawn(generator, [0.02, 0.1, 0.2, 0.03, 0.15], 3) for name in "abc"}
        wrong += aggregates.all_differences(suite)[0].p_value < 0.05
    assert wrong / 200 < 0.10  # 0.05 ± 0.03
