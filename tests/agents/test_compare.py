"""Intervals of few runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from agents.compare import difference, interval, significant_differences


def test_an_interval_holds_the_mean_and_shrinks_with_the_sample():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    few, many = interval(values[:5]), interval(values)
    assert few.low < values[:5].mean() < few.high
    assert many.low < 3.0 < many.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_equal_runs_have_an_interval_of_one_point():
    assert interval([2.0, 2.0]) == interval([2.0, 2.0, 2.0])
    assert (interval([2.0, 2.0]).low, interval([2.0, 2.0]).high) == (2.0, 2.0)


def test_a_difference_has_an_interval_around_it():
    far, near = [5.0, 5.1, 4.9, 5.05], [1.0, 1.2, 0.9, 1.1]
    gap = difference(far, near)
    assert 3.7 < gap.low < np.mean(far) - np.mean(near) < gap.high < 4.2
    same = difference(near, [0.9, 1.3, 1.0, 1.05])
    assert same.low < 0 < same.high
    assert difference([2.0, 2.0], [1.0, 1.0]).mean == 1.0


def test_significance_is_welchs_corrected_by_holm():
    far, near, like_near = [5.0, 5.1, 4.9], [1.0, 1.2, 0.9], [1.1, 0.95, 1.05]
    pairs = significant_differences({"near": near, "far": far, "like near": like_near})
    assert sorted(pair[:2] for pair in pairs) == [("far", "like near"), ("far", "near")]
    alone = ttest_ind(far, like_near, equal_var=False).pvalue
    assert min(p for _, _, p in pairs) == pytest.approx(3 * alone)  # the smallest of three


def test_one_seed_tells_nothing():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        significant_differences({"a": [1.0], "b": [0.9]})
