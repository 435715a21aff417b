"""The optimum and best-of-n: against every response of a tiny model, listed, and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from textenv.optimum import (
    BestOf,
    best_of_n,
    best_of_n_curve,
    best_of_n_kl,
    estimation_error,
    frontier,
    optimal_log_weights,
    optimum,
)

BETA = 0.3


@pytest.fixture(scope="module")
def listed(make_model):
    """Every response of two tokens of a tiny model to two prompts: scores and log π_ref."""
    model = make_model(vocab_size=6, initializer_range=0.6).double()
    scores, log_probs = [], []
    for prompt in ([3], [1, 5, 2]):
        responses = torch.tensor(list(itertools.product(range(6), repeat=2)))
        ids = torch.cat([torch.tensor([prompt] * 36), responses], dim=1)
        with torch.no_grad():
            every = model(input_ids=ids).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
        log_probs.append(every.gather(2, responses[:, :, None]).sum(dim=(1, 2)).numpy())
        scores.append(np.sin(responses.numpy() @ [1.3, 2.1] + len(prompt)))
    return scores, log_probs


def direct(scores, log_probs):
    """J*, score* and KL* of one prompt from their definitions, KL included."""
    reference = np.exp(log_probs)
    unnormalised = reference * np.exp(scores / BETA)
    best = unnormalised / unnormalised.sum()
    score, kl = best @ scores, best @ np.log(best / reference)
    return score - BETA * kl, score, kl


def test_the_optimum_of_listed_responses_is_that_of_the_definitions(listed):
    found = optimum(listed[0], BETA, listed[1])
    exact = np.mean([direct(*prompt) for prompt in zip(*listed, strict=True)], axis=0)
    np.testing.assert_allclose([found.value, found.score, found.kl], exact, atol=1e-12)
    start = np.mean([np.exp(p) @ s for s, p in zip(*listed, strict=True)])
    assert found.start == pytest.approx(start, abs=1e-12)
    assert (found.standard_error, found.bias, found.warning) == (0, 0, None)
    assert found.share(found.start) == 0 and found.share(found.value) == 1


def test_no_other_policy_is_worth_more(listed):
    rng = np.random.default_rng(0)
    scores, log_probs = listed[0][0], listed[1][0]
    log_best, value = optimal_log_weights(scores, BETA, log_probs)
    for size in (0.01, 0.1, 1.0):
        other = log_best + size * rng.standard_normal(len(scores))
        other -= np.logaddexp.reduce(other)
        worth = np.exp(other) @ (scores - BETA * (other - log_probs))
        assert worth < value


def test_soft_values_token_by_token_give_the_same_optimum(listed):
    """V(s) = β log Σ_a π_ref(a|s) e^{V(s')/β}, from the last token to the first."""
    scores, log_probs = (part[0].reshape(6, 6) for part in listed)
    first = np.logaddexp.reduce(log_probs, axis=1)
    after_one = BETA * np.logaddexp.reduce(log_probs - first[:, None] + scores / BETA, axis=1)
    value = BETA * np.logaddexp.reduce(first + after_one / BETA)
    assert optimum(listed[0][:1], BETA, listed[1][:1]).value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_best_of_n_of_listed_responses_is_the_expected_maximum(listed, n):
    scores, log_probs = listed[0][0], listed[1][0]
    probabilities = np.exp(log_probs)
    # P(max ≤ s)^n − P(max < s)^n, by counting for each different score.
    expected = sum(
        s * (probabilities[scores <= s].sum() ** n - probabilities[scores < s].sum() ** n)
        for s in np.unique(scores)
    )
    assert best_of_n(scores, n, log_probs) == pytest.approx(expected, abs=1e-6)


def test_samples_of_the_tiny_model_agree_with_the_list(listed):
    rng = np.random.default_rng(1)
    drawn = [
        rng.choice(s, size=200_000, p=np.exp(p) / np.exp(p).sum())
        for s, p in zip(*listed, strict=True)
    ]
    estimate, exact = optimum(drawn, BETA), optimum(listed[0], BETA, listed[1])
    assert abs(estimate.value - exact.value) < 4 * estimate.standard_error < 0.01
    assert estimate.kl == pytest.approx(exact.kl, rel=0.02)
    for n in (2, 8):
        exact_score = np.mean([best_of_n(s, n, p) for s, p in zip(*listed, strict=True)])
        assert np.mean([best_of_n(s, n) for s in drawn]) == pytest.approx(exact_score, abs=0.01)


def test_best_of_n_of_samples_is_the_mean_over_all_subsets():
    scores = np.array([3.0, -1.0, 2.0, 2.0, 5.0, 0.5])
    for n in range(1, 7):
        expected = np.mean([max(subset) for subset in itertools.combinations(scores, n)])
        assert best_of_n(scores, n) == pytest.approx(expected, abs=1e-12)


def test_best_of_n_by_hand():
    assert best_of_n(np.array([1.0, 2.0, 4.0]), 2) == pytest.approx((2 + 4 + 4) / 3)
    (curve,) = best_of_n_curve([np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.0])], [2])
    assert curve == BestOf(2, pytest.approx(5 / 3), math.log(2) - 1 / 2)


def test_best_of_n_stays_below_its_kl_bound_and_the_frontier(listed):
    """The exact KL of best-of-n, all different scores, is below log n − (n−1)/n; and no best-of-n
    is worth more than the optimum."""
    scores, log_probs = listed[0][0], listed[1][0]
    order = np.argsort(scores)
    cumulative = np.cumsum(np.exp(log_probs)[order])
    for n in (2, 4, 16, 64):
        chosen = np.diff(cumulative**n, prepend=0)
        kl = chosen[chosen > 0] @ np.log(chosen / np.exp(log_probs)[order])[chosen > 0]
        assert 0 < kl <= best_of_n_kl(n)
        optimal = optimum([scores], BETA, [log_probs]).value
        assert chosen @ scores[order] - BETA * kl <= optimal


def test_a_uniform_reference_of_two_scores_by_hand():
    """s ∈ {0, 1}, β = 1: J* = log((1 + e)/2), π*(1) = e/(1 + e)."""
    found = optimum([np.array([0.0, 1.0])], 1.0, [np.log([0.5, 0.5])])
    assert found.value == pytest.approx(math.log((1 + math.e) / 2))
    assert found.score == pytest.approx(math.e / (1 + math.e))
    assert found.kl == pytest.approx(found.score - found.value)


def test_the_frontier_rises_in_score_and_kl_as_beta_falls(listed):
    points = frontier(listed[0], [10.0, 1.0, 0.3, 0.1])
    assert np.all(np.diff([p.score for p in points]) > 0)
    assert np.all(np.diff([p.kl for p in points]) > 0)
    assert points[0].score == pytest.approx(points[0].start, abs=0.1)


def test_the_estimate_is_low_where_samples_are_few_and_says_so():
    """Standard error and bias against those over many repetitions."""
    rng = np.random.default_rng(0)
    exact = BETA * (0.5 / BETA**2)  # scores ~ N(0, 1): log E e^{s/β} = 1/(2β²)
    estimates = [optimum([rng.standard_normal(20)], BETA) for _ in range(300)]
    assert np.mean([e.value for e in estimates]) < exact - 0.3
    assert all(e.warning and "probably higher" in e.warning for e in estimates)

    def many():
        return optimum([rng.standard_normal(2000)], 1.0)

    many_samples = [many() for _ in range(300)]
    values = np.array([e.value for e in many_samples])
    assert np.mean([e.standard_error for e in many_samples]) == pytest.approx(values.std(), rel=0.2)
    assert not any(e.warning for e in many_samples)
    assert many_samples[0].effective_samples == pytest.approx(2000 / math.e, rel=0.2)


def test_the_error_of_equal_weights_is_zero():
    error, bias = estimation_error(np.full(8, -math.log(8)), 0.5)
    assert error == pytest.approx(0, abs=1e-8) and bias == pytest.approx(0, abs=1e-16)


def test_the_error_of_several_prompts_is_that_of_their_mean():
    scores = np.random.default_rng(0).standard_normal(500)
    one, four = optimum([scores], 1.0), optimum([scores] * 4, 1.0)
    assert four.standard_error == pytest.approx(one.standard_error / 2)
    assert (four.value, four.bias) == (pytest.approx(one.value), pytest.approx(one.bias))


@pytest.mark.parametrize("kl_coef", [0.0, -1.0, math.nan])
def test_a_beta_that_is_not_above_zero_is_refused(kl_coef):
    with pytest.raises(ValueError, match=r"kl_coef=.* must be above 0"):
        optimum([np.array([1.0])], kl_coef)


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf], [[1.0]]])
def test_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(ValueError, match="finite numbers"):
        optimum([np.array(scores)], 1.0)
    with pytest.raises(ValueError, match="finite numbers"):
        best_of_n(np.array(scores), 1)


@pytest.mark.parametrize("n", [0, 3])
def test_an_n_beyond_the_samples_is_refused(n):
    with pytest.raises(ValueError, match=rf"n={n} must be from 1 to .* 2"):
        best_of_n(np.array([1.0, 2.0]), n)


def test_scores_far_from_zero_do_not_overflow():
    found = optimum([np.array([1e6, 1e6 + 1])], 1e-3)
    assert found.value == pytest.approx(1e6 + 1 - 1e-3 * math.log(2))
