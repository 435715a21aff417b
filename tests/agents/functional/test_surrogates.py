"""Surrogates and sampled KLs: hand-computed values, and expectations by summing over actions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from agents.functional import surrogates
from textenv.kl import estimators

OLD = torch.tensor([[-1.0, -2.0, -0.5, -3.0]], dtype=torch.float64)
RATIOS = torch.tensor([[1.5, 0.5, 1.1, 4.0]], dtype=torch.float64)
LOG_PROBS = OLD + RATIOS.log()
UP, DOWN = torch.ones_like(OLD), -torch.ones_like(OLD)


def gradient(value: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value.sum(), inputs)[0]


# Values


def test_ratio():
    assert_close(surrogates.ratio(LOG_PROBS, OLD), RATIOS)


def test_score_function():
    losses = surrogates.score_function(torch.tensor([[-1.0, -2.0]]), torch.tensor([[3.0, -1.0]]))
    assert losses.tolist() == [[3.0, -2.0]]


def test_importance_weighted():
    assert_close(surrogates.importance_weighted(LOG_PROBS, OLD, 2 * UP), -2 * RATIOS)


@pytest.mark.parametrize(
    ("advantages", "high", "expected"),
    [
        (UP, None, [-1.2, -0.5, -1.1, -1.2]),
        (DOWN, None, [1.5, 0.8, 1.1, 4.0]),
        (UP, 0.4, [-1.4, -0.5, -1.1, -1.4]),
        (DOWN, 0.4, [1.5, 0.8, 1.1, 4.0]),
    ],
)
def test_clipped(advantages, high, expected):
    losses = surrogates.clipped(LOG_PROBS, OLD, advantages, 0.2, high)
    assert_close(losses, torch.tensor([expected], dtype=torch.float64))


def test_clipping_stops_the_gradient_only_on_the_good_side():
    log_probs = LOG_PROBS.clone().requires_grad_()
    moving_up = gradient(surrogates.clipped(log_probs, OLD, UP, 0.2), log_probs) != 0
    moving_down = gradient(surrogates.clipped(log_probs, OLD, DOWN, 0.2), log_probs) != 0
    assert moving_up.tolist() == [[False, True, True, False]]
    assert moving_down.tolist() == [[True, False, True, True]]


def test_dual_clipped():
    for advantages in (UP, DOWN):
        single = surrogates.clipped(LOG_PROBS, OLD, advantages, 0.2)
        dual = surrogates.dual_clipped(LOG_PROBS, OLD, advantages, 0.2, dual_clip=3.0)
        assert_close(dual, single.clamp(max=3.0))  # reached by A = -1, r = 4 alone
        assert (dual != single).sum() == (advantages is DOWN)


def test_dual_clip_must_be_greater_than_1():
    with pytest.raises(ValueError, match=r"got 0\.9"):
        surrogates.dual_clipped(LOG_PROBS, OLD, UP, 0.2, dual_clip=0.9)


TWO = torch.tensor([[True, True, False, False]])  # a response of two steps: s² = 1.5 · 0.5


@pytest.mark.parametrize(
    ("advantages", "mask", "epsilon", "expected"),
    [
        (UP, TWO, 0.2, -(0.75**0.5)),  # 0.866 is inside
        (UP, TWO, 0.1, -(0.75**0.5)),  # below 0.9, where only a bad response is clipped
        (DOWN, TWO, 0.1, 0.9),
        (UP, ~TWO, 0.2, -1.2),  # s² = 1.1 · 4
        (DOWN, ~TWO, 0.2, 4.4**0.5),
        (2 * UP, torch.ones_like(TWO), 0.5, -2 * 3.3**0.25),
    ],
)
def test_gspo(advantages, mask, epsilon, expected):
    losses = surrogates.gspo(LOG_PROBS, OLD, advantages, mask, epsilon)
    assert_close(losses, torch.full_like(OLD, expected))


def test_the_gradient_of_gspo_is_that_of_the_ratio_of_the_response():
    log_probs = LOG_PROBS.clone().requires_grad_()
    losses = surrogates.gspo(log_probs, OLD, UP, TWO, 0.2)
    found = gradient((losses * TWO).sum() / 2, log_probs)  # the mean over its steps
    assert_close(found, -(0.75**0.5) / 2 * TWO.double())  # ds/d log π_t = s/|y|
    clipped = gradient(surrogates.gspo(log_probs, OLD, UP, ~TWO, 0.2), log_probs)
    assert (clipped == 0).all()


def test_cispo():
    log_probs = LOG_PROBS.clone().requires_grad_()
    losses = surrogates.cispo(log_probs, OLD, 2 * UP, 0.2)
    weights = torch.tensor([[1.2, 0.5, 1.1, 1.2]], dtype=torch.float64)
    assert_close(losses, -2 * weights * LOG_PROBS)
    assert_close(gradient(losses, log_probs), -2 * weights)  # no step loses its gradient
    both = surrogates.cispo(LOG_PROBS, OLD, DOWN, 0.2, clip_range=0.2)
    assert_close(both, torch.tensor([[1.2, 0.8, 1.1, 1.2]], dtype=torch.float64) * LOG_PROBS)
    fresh = OLD.clone().requires_grad_()
    for name, more in (("cispo", (0.2,)), ("gspo", (torch.ones_like(TWO), 0.2))):
        found = gradient(getattr(surrogates, name)(fresh, OLD, UP, *more), fresh)
        assert_close(found, -UP)  # on fresh data both are the policy gradient


def test_clip_fraction():
    mask = torch.tensor([[True, True, True, False]])
    assert surrogates.clip_fraction(LOG_PROBS, OLD, mask, 0.2).item() == pytest.approx(2 / 3)
    assert surrogates.clip_fraction(LOG_PROBS, OLD, mask, 0.2, 0.6).item() == pytest.approx(1 / 3)
    poisoned = torch.where(mask, LOG_PROBS, torch.nan)
    assert surrogates.clip_fraction(poisoned, OLD, mask, 0.2).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("measured", "expected"), [(0.016, 2.0), (0.014, 1.0), (0.01, 1.0), (0.007, 1.0), (0.006, 0.5)]
)
def test_adaptive_penalty(measured, expected):
    """With target 0.01 it doubles above 0.015 and halves below 0.00667."""
    assert surrogates.adaptive_penalty(1.0, measured, target=0.01) == expected


# Gradients


def test_all_surrogates_have_the_policy_gradient_at_ratio_1():
    torch.manual_seed(0)
    advantages = torch.randn_like(OLD)
    log_probs = OLD.clone().requires_grad_()
    expected = gradient(surrogates.score_function(log_probs, advantages), log_probs)
    assert_close(expected, -advantages)
    for losses in (
        surrogates.importance_weighted(log_probs, OLD, advantages),
        surrogates.clipped(log_probs, OLD, advantages, 0.2),
        surrogates.dual_clipped(log_probs, OLD, advantages, 0.2, 3.0),
    ):
        assert_close(gradient(losses, log_probs), expected)


def test_gradients_flow_into_log_probs_only():
    log_probs, old, advantages = (LOG_PROBS.clone(), OLD.clone(), UP.clone())
    for tensor in (log_probs, old, advantages):
        tensor.requires_grad_()
    losses = [
        surrogates.score_function(log_probs, advantages),
        surrogates.importance_weighted(log_probs, old, advantages),
        surrogates.clipped(log_probs, old, advantages, 10.0),
        surrogates.dual_clipped(log_probs, old, advantages, 10.0, 3.0),
        surrogates.kl_old_new(log_probs, old),
        surrogates.kl_new_old(log_probs, old),
        surrogates.importance_weighted_kl(log_probs, old, advantages),
    ]
    for loss in losses:
        into = torch.autograd.grad(loss.sum(), (log_probs, old, advantages), allow_unused=True)
        assert into[0].all() and into[1] is None and into[2] is None


@pytest.mark.parametrize(
    "surrogate",
    [
        lambda log_probs: surrogates.score_function(log_probs, UP),
        lambda log_probs: surrogates.importance_weighted(log_probs, OLD, DOWN),
        lambda log_probs: surrogates.clipped(log_probs, OLD, UP, 0.2),
        lambda log_probs: surrogates.clipped(log_probs, OLD, DOWN, 0.2, 0.3),
        lambda log_probs: surrogates.dual_clipped(log_probs, OLD, DOWN, 0.2, 3.0),
        lambda log_probs: surrogates.ratio(log_probs, OLD),
        lambda log_probs: surrogates.kl_old_new(log_probs, OLD),
        lambda log_probs: surrogates.importance_weighted_kl(log_probs, OLD, OLD - 0.3),
        lambda log_probs: surrogates.kl_new_old(log_probs, OLD),
    ],
)
def test_finite_differences(surrogate):
    assert torch.autograd.gradcheck(surrogate, LOG_PROBS.clone().requires_grad_())


def test_expected_gradient_is_that_of_the_return():
    """A bandit of 5 arms: the score function on fresh data and the importance-weighted loss on
    anybody's data both have the gradient of the expected score."""
    logits, old_logits, _ = policies()
    scores = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0], dtype=torch.float64)
    true = gradient(-(logits.softmax(-1) * scores).sum(), logits)
    log_probs, old = logits.log_softmax(-1), old_logits.log_softmax(-1)
    fresh = log_probs.detach().exp() * surrogates.score_function(log_probs, scores)
    assert_close(gradient(fresh, logits), true)
    log_probs = logits.log_softmax(-1)
    stale = old.exp() * surrogates.importance_weighted(log_probs, old, scores)
    assert_close(gradient(stale, logits), true)


# Sampled KLs


def policies() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits over 5 actions of π (with gradient), π_old and π_ref."""
    generator = torch.Generator().manual_seed(1)
    logits, old, reference = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), old, reference


@pytest.mark.parametrize("direction", ["old to new", "new to old", "new to reference"])
def test_sampled_kls_have_the_value_and_gradient_of_the_kl(direction):
    logits, old_logits, reference_logits = policies()
    log_probs, old = logits.log_softmax(-1), old_logits.log_softmax(-1)
    reference = reference_logits.log_softmax(-1)
    if direction == "old to new":
        sampled, true = surrogates.kl_old_new(log_probs, old), estimators.exact(old_logits, logits)
    elif direction == "new to old":
        sampled, true = surrogates.kl_new_old(log_probs, old), estimators.exact(logits, old_logits)
    else:
        sampled = surrogates.importance_weighted_kl(log_probs, old, reference)
        true = estimators.exact(logits, reference_logits)
    assert (sampled >= 0).all()
    expectation = (old.exp() * sampled).sum()
    assert_close(expectation, true)
    assert_close(gradient(expectation, logits), gradient(true, logits))


def test_sampled_kls_by_hand():
    log_probs, old = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])  # r = 2
    assert surrogates.kl_old_new(log_probs, old).item() == pytest.approx(1 - math.log(2))
    assert surrogates.kl_new_old(log_probs, old).item() == pytest.approx(2 * math.log(2) - 1)


def test_sampled_kls_vanish_with_their_gradient_on_fresh_data():
    log_probs = OLD.clone().requires_grad_()
    for sampled in (
        surrogates.kl_old_new(log_probs, log_probs),
        surrogates.kl_new_old(log_probs, log_probs),
    ):
        assert not sampled.any()
        assert not gradient(sampled, log_probs).any()


def test_importance_weighted_kl_mends_k3_on_fresh_data():
    """With r = 1 the value is k3's, and the gradient turns from KL(π_ref‖π)'s to KL(π‖π_ref)'s."""
    logits, _, reference_logits = policies()
    log_probs, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    weighted = surrogates.importance_weighted_kl(log_probs, log_probs, reference)
    assert_close(weighted, estimators.k3(log_probs, reference))
    expectation = log_probs.detach().exp() * weighted
    true = estimators.exact(logits, reference_logits)
    assert_close(gradient(expectation, logits), gradient(true, logits))


# Shapes


@pytest.mark.parametrize(
    "call",
    [
        lambda one, other: surrogates.ratio(one, other),
        lambda one, other: surrogates.score_function(one, other),
        lambda one, other: surrogates.importance_weighted(one, one, other),
        lambda one, other: surrogates.clipped(one, one, other, 0.2),
        lambda one, other: surrogates.dual_clipped(one, one, other, 0.2, 3.0),
        lambda one, other: surrogates.clip_fraction(one, one, other > 0, 0.2),
        lambda one, other: surrogates.kl_old_new(one, other),
        lambda one, other: surrogates.kl_new_old(one, other),
        lambda one, other: surrogates.importance_weighted_kl(one, one, other),
    ],
)
def test_nothing_broadcasts(call):
    with pytest.raises(ValueError, match=r"\[2, 3\].*\[2, 1\]"):
        call(torch.zeros(2, 3), torch.zeros(2, 1))
