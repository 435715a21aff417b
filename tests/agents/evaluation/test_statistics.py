"""Intervals of few runs: known values, agreement with their tests, and how often they are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind, ttest_rel

from agents.evaluation.statistics import (
    all_differences,
    interquartile_mean,
    interval,
    paired_difference,
    probability_of_improvement,
)

FAR, NEAR, LIKE_NEAR = [5.0, 5.1, 4.9], [1.0, 1.2, 0.9], [1.1, 0.95, 1.05]


def ends(one):
    return one.low, one.high


def test_an_interval_is_students():
    found = interval([0.22, 0.3, 0.41])
    assert ends(found) == pytest.approx((0.0733, 0.5467), abs=1e-3)  # 4.303 · 0.0954 / √3
    assert ends(found) == pytest.approx(ttest_1samp([0.22, 0.3, 0.41], 0).confidence_interval())
    assert found.half_width == pytest.approx((found.high - found.low) / 2)
    assert interval([2.0, 2.0]).high == 2.0
    assert interval([2.0]).low == -math.inf


def test_the_interquartile_mean_leaves_out_the_quarters():
    assert interquartile_mean([1, 2, 3, 4, 1000]).mean == 3
    assert interquartile_mean(range(8)).mean == 3.5
    assert interquartile_mean([-50, 1, 2, 3, 4, 5, 6, 99]).mean == 3.5
    assert interquartile_mean([1, 2, 6]) == interval([1, 2, 6])
    assert interquartile_mean([3.0] * 5).high == 3.0


def test_paired_differences_are_students():
    paired = ttest_rel(FAR, NEAR).confidence_interval()
    assert ends(paired_difference(FAR, NEAR)) == pytest.approx((paired.low, paired.high))
    with pytest.raises(ValueError, match="3 and 2 values are no pairs"):
        paired_difference(FAR, NEAR[:2])


def test_what_pairs_have_in_common_does_not_widen_their_difference():
    common = np.array([0.0, 5.0, -3.0, 8.0])
    one, other = common + [1.0, 1.1, 0.9, 1.0], common
    unpaired = ttest_ind(one, other, equal_var=False).confidence_interval()
    assert paired_difference(one, other).half_width < 0.2 < 5 < (unpaired.high - unpaired.low) / 2


def test_the_probability_of_improvement_is_the_share_of_pairs():
    assert probability_of_improvement([1, 2, 3], [0, 2, 2.5]).mean == pytest.approx(5.5 / 9)
    certain = probability_of_improvement([4, 5, 6], [1, 2, 3])
    assert certain.mean == certain.high == 1 and 0.4 < certain.low < 0.7
    never = probability_of_improvement([1, 2, 3], [4, 5, 6])
    assert ends(never) == pytest.approx((0, 1 - certain.low))
    some = probability_of_improvement([1, 3, 5, 7, 9], [2, 4, 6, 8])
    assert 0 < some.low < some.mean == 0.5 < some.high < 1


def test_intervals_and_tests_of_all_pairs_agree():
    found = all_differences({"near": NEAR, "far": FAR, "like near": LIKE_NEAR})
    assert [one.p_value for one in found] == sorted(one.p_value for one in found)
    assert {one.better for one in found[:2]} == {"far"}
    for one in found:
        assert (one.interval.low > 0) == (one.p_value < 0.05)
        assert one.interval.low < one.interval.mean < one.interval.high
    alone = ttest_ind(FAR, NEAR, equal_var=False).confidence_interval()
    of_all = next(one for one in found if (one.better, one.worse) == ("far", "near"))
    assert (
        of_all.interval.half_width > (alone.high - alone.low) / 2
    )  # it holds for three pairs at once


def test_two_candidates_are_compared_by_welchs_test():
    (found,) = all_differences({"far": FAR, "near": NEAR})
    assert found.p_value == pytest.approx(ttest_ind(FAR, NEAR, equal_var=False).pvalue, rel=1e-3)


def test_candidates_that_do_not_vary_are_apart_or_equal():
    found = all_differences({"a": [1.0, 1.0], "b": [2.0, 2.0], "c": [1.0, 1.0]})
    p_values = {(one.better, one.worse): one.p_value for one in found}
    assert p_values == {("b", "a"): 0, ("b", "c"): 0, ("a", "c"): 1}
    assert all_differences({"a": FAR}) == []
    mixed = all_differences({"a": [1.0, 1.0, 1.0], "b": FAR})
    assert mixed[0].p_value < 0.05


def test_one_seed_tells_nothing():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        all_differences({"a": [1.0], "b": [0.9]})


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds):
    """Of normal runs whose deviations differ by a factor of two."""
    rng = np.random.default_rng(seeds)
    draws = rng.normal(size=(4000, 2, seeds)) * np.array([1.0, 2.0])[:, None]
    common = rng.normal(scale=3.0, size=(4000, 1, seeds))
    covered = {
        "mean": [interval(one) for one, _ in draws],
        "interquartile mean": [interquartile_mean(one) for one, _ in draws],
        "paired difference": [paired_difference(*pair) for pair in draws + common],
    }
    shares = {
        name: np.mean([one.low <= 0 <= one.high for one in found])
        for name, found in covered.items()
    }
    # 4,000 draws tell a share to ± 0.007. Trimmed means are a little narrow with few seeds.
    for name, share in shares.items():
        assert 0.93 < share < 0.98, (name, share)
    improvement = [probability_of_improvement(*pair) for pair in draws[:1000]]
    assert np.mean([one.low <= 0.5 <= one.high for one in improvement]) > 0.86


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_all_pairs_of_equal_candidates_are_rarely_called_different(seeds):
    rng = np.random.default_rng(seeds)
    wrong = 0
    for _ in range(200):
        runs = {
            name: rng.normal(scale=1 + number % 2, size=seeds) for number, name in enumerate("abc")
        }
        wrong += all_differences(runs)[0].p_value < 0.05
    assert wrong / 200 < 0.10  # 0.05 ± 0.03
