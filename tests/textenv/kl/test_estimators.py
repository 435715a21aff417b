"""KL estimators against the KL of small categoricals, by summing over every action."""

from __future__ import annotations

import math

import pytest
import torch

from textenv.kl import estimators

SAMPLED = [estimators.k1, estimators.k2, estimators.k3]


@pytest.fixture
def distributions() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of π (with gradient) and of π_ref over 6 actions."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64)
    reference_logits = torch.randn(6, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), reference_logits


def divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum()


def expected(estimator, logits, reference_logits) -> torch.Tensor:
    """E_{a~π}[estimator], with the sampling itself outside the graph, as in training."""
    log_probs = logits.log_softmax(-1)
    probabilities = log_probs.detach().exp()
    return (probabilities * estimator(log_probs, reference_logits.log_softmax(-1))).sum()


def gradient(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, logits)[0]


def test_hand_computed():
    log_probs, reference = torch.tensor(-1.0), torch.tensor(-1.5)
    assert estimators.k1(log_probs, reference).item() == pytest.approx(0.5)
    assert estimators.k2(log_probs, reference).item() == pytest.approx(0.125)
    assert estimators.k3(log_probs, reference).item() == pytest.approx(0.1065, abs=5e-5)
    halves, quarters = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    by_hand = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert estimators.exact(halves, quarters).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("estimator", SAMPLED)
def test_zero_where_equal(estimator):
    log_probs = torch.tensor([-0.1, -3.0, -20.0])
    assert torch.equal(estimator(log_probs, log_probs), torch.zeros(3))


def test_values_under_the_policy(distributions):
    logits, reference_logits = distributions
    true = divergence(logits.log_softmax(-1), reference_logits.log_softmax(-1))
    torch.testing.assert_close(expected(estimators.k1, logits, reference_logits), true)
    torch.testing.assert_close(expected(estimators.k3, logits, reference_logits), true)
    torch.testing.assert_close(estimators.exact(logits, reference_logits), true)
    assert (
        expected(estimators.k2, logits, reference_logits) - true
    ).abs() > 1e-2  # biased far away


def test_k2_is_right_to_second_order(distributions):
    logits, direction = distributions
    errors = []
    for size in (1e-2, 1e-3):
        near = (logits + size * direction).detach()
        errors.append(expected(estimators.k2, logits, near) - estimators.exact(logits, near))
    assert (errors[0] / errors[1]).abs() > 500  # the KL falls a hundredfold, the error thousandfold


def test_gradients_as_losses(distributions):
    logits, reference_logits = distributions
    log_p, log_q = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    to_reference = gradient(divergence(log_p, log_q), logits)
    from_reference = gradient(divergence(log_q, logits.log_softmax(-1)), logits)

    def loss_gradient(estimator):
        return gradient(expected(estimator, logits, reference_logits), logits)

    torch.testing.assert_close(loss_gradient(estimators.k1), torch.zeros_like(logits))
    torch.testing.assert_close(loss_gradient(estimators.k2), to_reference)
    torch.testing.assert_close(loss_gradient(estimators.k3), from_reference)
    torch.testing.assert_close(
        gradient(estimators.exact(logits, reference_logits), logits), to_reference
    )
    assert (to_reference - from_reference).abs().max() > 1e-2  # the two can be told apart


def reward_gradient(estimator, logits, reference_logits) -> torch.Tensor:
    """E_{a~π}[∇log π(a) · value(a)], what a policy gradient makes of a KL in the reward."""
    log_probs = logits.log_softmax(-1)
    values = estimator(log_probs, reference_logits.log_softmax(-1)).detach()
    return gradient((log_probs.detach().exp() * log_probs * values).sum(), logits)


def test_gradients_in_a_reward(distributions):
    logits, reference_logits = distributions
    to_reference = gradient(estimators.exact(logits, reference_logits), logits)
    from_reference = gradient(estimators.exact(reference_logits, logits), logits)
    torch.testing.assert_close(
        reward_gradient(estimators.k1, logits, reference_logits), to_reference
    )
    torch.testing.assert_close(
        reward_gradient(estimators.k3, logits, reference_logits), to_reference - from_reference
    )
    torch.testing.assert_close(
        reward_gradient(estimators.exact, logits, reference_logits), torch.zeros_like(logits)
    )


@pytest.mark.parametrize(
    ("estimator", "order"), [(estimators.k1, 1), (estimators.k2, 2), (estimators.k3, 2)]
)
def test_pull_of_a_reward_near_the_reference(estimator, order, distributions):
    logits, direction = distributions
    pulls = [
        reward_gradient(estimator, logits, (logits + size * direction).detach()).norm()
        for size in (1e-2, 1e-3)
    ]
    assert torch.log10(pulls[0] / pulls[1]).item() == pytest.approx(order, abs=0.1)


def test_k3_is_never_negative():
    log_probs = -torch.logspace(-8, 1, 200)
    reference = -torch.logspace(1, -8, 200)
    assert (estimators.k3(log_probs, reference) >= 0).all()
    assert (estimators.k3(log_probs, log_probs * (1 + 1e-6)) >= -1e-12).all()


def test_exact_ignores_a_shift_and_keeps_leading_dimensions():
    torch.manual_seed(0)
    logits, reference_logits = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    values = estimators.exact(logits, reference_logits)
    assert values.shape == (2, 3)
    shifted = estimators.exact(logits + 5.0, reference_logits.log_softmax(-1))
    torch.testing.assert_close(values, shifted)


def test_exact_of_banned_actions():
    logits = torch.tensor([0.0, 1.0, -torch.inf], requires_grad=True)
    both_ban = torch.tensor([1.0, 0.0, -torch.inf])
    value = estimators.exact(logits, both_ban)
    torch.testing.assert_close(value, estimators.exact(logits[:2], both_ban[:2]))
    assert torch.isfinite(gradient(value, logits)).all()
    assert estimators.exact(both_ban, torch.tensor([0.0, -torch.inf, 0.0])) == torch.inf


def test_exact_computes_in_float32():
    torch.manual_seed(0)
    logits, reference_logits = torch.randn(50).bfloat16(), torch.randn(50).bfloat16()
    value = estimators.exact(logits, reference_logits)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, estimators.exact(logits.float(), reference_logits.float()))


def test_exact_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"logits \[2, 3\] and reference_logits \[3\]"):
        estimators.exact(torch.zeros(2, 3), torch.zeros(3))


@pytest.mark.parametrize("estimator", [*SAMPLED, estimators.exact])
def test_finite_differences(estimator, distributions):
    logits, reference_logits = distributions
    inputs = logits, reference_logits.requires_grad_()
    assert torch.autograd.gradcheck(estimator, inputs)
