"""Win rates, their intervals, the sign test and strengths, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.preferences.duels import (
    Duel,
    Judgement,
    bradley_terry_strengths,
    duel,
    judged_duel,
    judged_tournament,
    tournament,
)


def test_wins_ties_and_losses_are_counted():
    result = duel([1, 2, 3, 4], [1, 1, 5, 3.95], margin=0.1)
    assert (result.wins, result.ties, result.losses, result.count) == (1, 2, 1, 4)


def test_wilson_and_the_sign_test_by_hand():
    """Wilson 1927 with z = 1.96 for 8 of 10; the sign test is 2·(C(10,8) + C(10,9) + 1) / 2^10."""
    result = Duel(wins=8, ties=5, losses=2)
    z, p, n = 1.959964, 0.8, 10
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    rate = result.win_rate
    assert (rate.mean, rate.low, rate.high) == pytest.approx((0.8, middle - half, middle + half))
    assert result.p_value == pytest.approx(2 * (45 + 10 + 1) / 1024)


def test_a_duel_that_decides_nothing_says_so():
    rate = Duel(0, 7, 0).win_rate
    assert (rate.mean, rate.low, rate.high, Duel(0, 7, 0).p_value) == (0.5, 0.0, 1.0, 1.0)


def test_strengths_of_two_are_the_log_odds():
    wins = np.array([[0, 29.5], [9.5, 0]])  # with half a win more for each: 30 against 10
    theta = bradley_terry_strengths(wins)
    assert theta[0] - theta[1] == pytest.approx(math.log(3)) and theta.sum() == pytest.approx(0)


def test_strengths_solve_the_likelihood_equations():
    """At the maximum each competitor has as many wins as expected (Hunter 2004, eq. 2)."""
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 20, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0)
    theta = bradley_terry_strengths(wins)
    table = wins + 0.5 * (1 - np.eye(4))
    games = table + table.T
    expected = games / (1 + np.exp(theta[None, :] - theta[:, None]))
    np.fill_diagonal(expected, 0)
    assert expected.sum(axis=1) == pytest.approx(table.sum(axis=1))


def test_a_tournament_ranks_and_brackets():
    rng = np.random.default_rng(1)
    scores = {name: rng.normal(mean, 1, 400) for name, mean in (("a", 0), ("b", 1), ("c", 0))}
    found = tournament(scores)
    assert found["b"].low > found["a"].high and found["b"].low > found["c"].high
    assert found["a"].low < found["c"].high and found["c"].low < found["a"].high
    assert sum(strength.mean for strength in found.values()) == pytest.approx(0, abs=1e-9)


def test_judgements_are_counted_whichever_side_a_text_was_on():
    votes = [("a", "b", 2), ("b", "a", -1), ("a", "b", -1), ("b", "a", 0), ("a", "c", 1)]
    judgements = [Judgement(*vote) for vote in votes]
    assert judged_duel(judgements, "a", "b") == Duel(wins=2, ties=1, losses=1)
    assert judged_duel(judgements, "b", "a") == Duel(wins=1, ties=1, losses=2)
    assert judged_duel(judgements, "b", "c") == Duel(0, 0, 0)


def test_strengths_by_judgements_are_those_by_scores():
    """The same comparisons, once as scores and once as judgements, have the same strengths."""
    rng = np.random.default_rng(2)
    scores = {name: rng.normal(mean, 1, 60).round(1) for name, mean in (("a", 0), ("b", 1))}
    judgements = [
        Judgement("a", "b", int(np.sign(one - other)) * 3)
        for one, other in zip(scores["a"], scores["b"], strict=True)
    ]
    assert judged_tournament(["a", "b"], judgements) == tournament(scores)


def test_strengths_where_not_all_met():
    """c met nobody; a resample may lack a pair of competitors as well."""
    theta = bradley_terry_strengths(np.array([[0, 29.5, 0], [9.5, 0, 0], [0, 0, 0]]))
    assert theta == pytest.approx([math.log(3) / 2, -math.log(3) / 2, 0])
    found = judged_tournament(["a", "b", "c"], [Judgement("a", "b", 1), Judgement("b", "c", 1)])
    assert found["a"].mean > found["b"].mean > found["c"].mean
    assert all(np.isfinite([each.mean, each.low, each.high]).all() for each in found.values())


@pytest.mark.slow
@pytest.mark.parametrize(("p", "ties"), [(0.5, 0.0), (0.5, 0.3), (0.7, 0.1), (0.9, 0.2)])
def test_intervals_cover_the_truth_and_the_test_has_its_level(p, ties):
    """2,000 duels of 100 pairs; the deviation of a coverage of 95 % is then half a percent."""
    rng = np.random.default_rng(0)
    covered, rejected = 0, 0
    for _ in range(2000):
        n_ties = rng.binomial(100, ties)
        wins = rng.binomial(100 - n_ties, p)
        result = Duel(int(wins), int(n_ties), int(100 - n_ties - wins))
        covered += result.win_rate.low <= p <= result.win_rate.high
        rejected += result.p_value < 0.05
    assert 0.93 <= covered / 2000 <= 0.975
    if p == 0.5:
        assert rejected / 2000 <= 0.055
