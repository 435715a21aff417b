"""Conjugate gradient, Fisher-vector products and line search against explicit matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from agents.functional.natural_gradient import (
    conjugate_gradient,
    fisher_operator,
    flatten,
    line_search,
    natural_step,
    natural_step_size,
    summed_operator,
    unflatten,
)
from textenv.kl import estimators


@pytest.fixture
def system() -> tuple[torch.Tensor, torch.Tensor]:
    """A positive definite matrix and a right-hand side."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    return root @ root.T + torch.eye(8), torch.randn(8, generator=generator, dtype=torch.float64)


class Policy:
    """A softmax policy of one hidden layer over 4 actions, at 5 fixed observations."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.observations = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        shapes = [(3, 2), (2,), (2, 4)]
        self.parameters = [
            torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
            for shape in shapes
        ]

    def logits(self, parameters: list[torch.Tensor]) -> torch.Tensor:
        weight, bias, head = parameters
        return torch.tanh(self.observations @ weight + bias) @ head

    def kl_from(self, old: list[torch.Tensor], parameters: list[torch.Tensor]) -> torch.Tensor:
        return estimators.exact(self.logits(old).detach(), self.logits(parameters)).mean()

    def hessian(self) -> torch.Tensor:
        def divergence(vector):
            return self.kl_from(self.parameters, unflatten(vector, self.parameters))

        return torch.autograd.functional.hessian(divergence, flatten(self.parameters).detach())

    def fisher(self) -> torch.Tensor:
        """E[∇log π ∇log πᵀ] over observations and actions, term by term."""
        log_probs = self.logits(self.parameters).log_softmax(-1).flatten()
        scores = torch.stack(
            [
                flatten(torch.autograd.grad(log_prob, self.parameters, retain_graph=True))
                for log_prob in log_probs
            ]
        )
        weights = log_probs.detach().exp() / len(self.observations)
        return scores.T @ (weights[:, None] * scores)


@pytest.fixture
def policy() -> Policy:
    return Policy()


# Vectors


def test_flatten_and_back():
    tensors = [torch.arange(6.0).view(2, 3).T, torch.tensor(7.0), torch.tensor([8.0, 9.0])]
    vector = flatten(tensors)
    assert vector.tolist() == [0, 3, 1, 4, 2, 5, 7, 8, 9]
    for tensor, back in zip(tensors, unflatten(vector, tensors), strict=True):
        assert torch.equal(tensor, back)
    with pytest.raises(ValueError, match=r"vector must be \[9\], got \[8\]"):
        unflatten(vector[:8], tensors)


# Fisher-vector products


def test_fisher_vector_product_against_the_hessian_and_the_fisher_information(policy):
    hessian = policy.hessian()
    assert_close(hessian, policy.fisher())
    divergence = policy.kl_from(policy.parameters, policy.parameters)
    product = fisher_operator(divergence, policy.parameters)
    for vector in torch.eye(len(hessian), dtype=torch.float64):
        assert_close(product(vector), hessian @ vector)
        assert not product(vector).requires_grad


def test_parameters_that_the_kl_does_not_touch_have_no_curvature(policy):
    value_head = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    parameters = [*policy.parameters, value_head]
    divergence = policy.kl_from(policy.parameters, policy.parameters)
    vector = torch.ones(sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    product = fisher_operator(divergence, parameters)(vector)
    assert product[-2:].tolist() == [0, 0]


def test_fisher_arguments_are_checked(policy):
    divergence = policy.kl_from(policy.parameters, policy.parameters)
    with pytest.raises(ValueError, match=r"vector must be \[16\], got \[3\]"):
        fisher_operator(divergence, policy.parameters)(torch.ones(3))
    with pytest.raises(ValueError, match=r"kl must be a scalar, got \[5\]"):
        fisher_operator(divergence.expand(5), policy.parameters)


# Conjugate gradient


def test_conjugate_gradient_solves(system):
    matrix, b = system
    x = conjugate_gradient(lambda vector: matrix @ vector, b, tolerance=1e-24)
    assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-6, atol=1e-8)


def test_conjugate_gradient_stops(system):
    matrix, b = system
    products = []

    def matvec(vector):
        products.append(vector)
        return matrix @ vector

    assert_close(conjugate_gradient(lambda vector: 2 * vector, b), b / 2)
    loose = conjugate_gradient(matvec, b, tolerance=1e-2)
    assert len(products) < 8 and (b - matrix @ loose).square().sum() < 1e-2
    products.clear()
    conjugate_gradient(matvec, b, iterations=3)
    assert len(products) == 3
    products.clear()
    assert not conjugate_gradient(matvec, torch.zeros(8, dtype=torch.float64)).any()
    assert not products
    with pytest.raises(ValueError, match=r"b must be a vector, got \[8, 8\]"):
        conjugate_gradient(matvec, matrix)


def test_conjugate_gradient_leaves_b_alone(system):
    matrix, b = system
    before = b.clone()
    conjugate_gradient(lambda vector: matrix @ vector, b)
    assert torch.equal(b, before)


# Step and line search


def test_natural_step_size_reaches_the_edge(system):
    matrix, step = system
    size = natural_step_size(0.01, step, matrix @ step)
    assert (0.5 * (size * step) @ matrix @ (size * step)).item() == pytest.approx(0.01)
    assert natural_step_size(0.01, torch.zeros(3), torch.zeros(3)) == 0
    assert natural_step_size(0.01, torch.ones(3), -torch.ones(3)) == 0
    with pytest.raises(ValueError, match=r"\[3\] and \[2\]"):
        natural_step_size(0.01, torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize("damping", [0.0, 1.0, 100.0])
def test_a_natural_step_reaches_the_edge_of_the_undamped_region(system, damping):
    """½ xᵀHx = δ for every damping, and the direction is that of (H + λI) x = −g."""
    matrix, gradient = system
    step = natural_step(lambda v: matrix @ v, gradient, 0.01, damping, iterations=50)
    assert (0.5 * step @ matrix @ step).item() == pytest.approx(0.01, rel=1e-6)
    damped = matrix + damping * torch.eye(8)
    direction = torch.linalg.solve(damped, -gradient)
    assert_close(step / step.norm(), direction / direction.norm(), rtol=1e-5, atol=1e-6)
    if damping == 100.0:
        too_short = natural_step_size(0.01, direction, damped @ direction) * direction
        assert (0.5 * too_short @ matrix @ too_short).item() < 0.005  # the test can tell


def test_a_gradient_of_zero_makes_no_step(system):
    matrix, gradient = system
    assert not natural_step(lambda v: matrix @ v, 0 * gradient, 0.01).any()


def test_the_operators_of_parts_add_up_to_that_of_the_whole(policy):
    def part(rows: slice):
        now = policy.logits(policy.parameters)[rows]
        return estimators.exact(now.detach(), now).sum() / 5

    whole, parts = (
        summed_operator([lambda rows=rows: part(rows) for rows in every], policy.parameters)
        for every in ([slice(0, 5)], [slice(0, 2), slice(2, 4), slice(4, 5)])
    )
    hessian = policy.hessian()
    for vector in torch.eye(len(hessian), dtype=torch.float64):
        assert_close(whole(vector), hessian @ vector)
        assert_close(parts(vector), hessian @ vector)


def test_line_search_takes_the_first_acceptable_fraction():
    """Loss (x - 1)² and KL x²/2 along a step of 3, from 0: too far, then lower but outside, ..."""
    tried = []

    def evaluate(displacement):
        x = displacement.item()
        tried.append(x)
        return (x - 1) ** 2, x**2 / 2

    step = torch.tensor([3.0])
    assert line_search(evaluate, step, loss=1.0, delta=math.inf) == pytest.approx(0.8**2)
    assert tried == pytest.approx([3.0, 2.4, 1.92])
    assert line_search(evaluate, step, loss=1.0, delta=1.0) == pytest.approx(0.8**4)
    assert line_search(evaluate, step / 3, loss=1.0, delta=0.5) == 1.0  # KL = δ is accepted
    tried.clear()
    assert line_search(evaluate, -step, loss=1.0, delta=math.inf) == 0.0
    assert len(tried) == 10
    assert line_search(evaluate, step, loss=1.0, delta=1.0, shrink=0.1) == pytest.approx(0.1)
    assert line_search(evaluate, step, loss=1.0, delta=1.0, tries=2) == 0.0


@pytest.mark.parametrize("outcome", [(math.nan, 0.0), (0.0, math.nan), (1.0, 0.0)])
def test_line_search_refuses_nan_and_no_gain(outcome):
    assert line_search(lambda _: outcome, torch.ones(2), loss=1.0, delta=0.01) == 0.0


def test_one_trust_region_step(policy):
    """The whole of TRPO's step on a policy of 16 parameters: downhill, at a KL close to δ."""
    advantages = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    old = [parameter.detach().clone() for parameter in policy.parameters]
    weights = policy.logits(old).softmax(-1)

    def surrogate(parameters):
        log_ratio = policy.logits(parameters).log_softmax(-1) - policy.logits(old).log_softmax(-1)
        return -(weights * log_ratio.exp() * advantages).sum(-1).mean()

    def evaluate(displacement):
        moved = [
            parameter + change
            for parameter, change in zip(old, unflatten(displacement, old), strict=True)
        ]
        return surrogate(moved).item(), policy.kl_from(old, moved).item()

    loss = surrogate(policy.parameters)
    gradient = flatten(torch.autograd.grad(loss, policy.parameters))
    divergence = policy.kl_from(old, policy.parameters)
    fisher = fisher_operator(divergence, policy.parameters)

    def product(vector):
        return fisher(vector) + 1e-3 * vector

    direction = conjugate_gradient(product, -gradient)
    step = natural_step_size(1e-4, direction, product(direction)) * direction
    fraction = line_search(evaluate, step, loss.item(), delta=1e-4 * 1.05)
    assert fraction == 1.0
    new_loss, new_kl = evaluate(fraction * step)
    assert new_loss < loss.item() and new_kl == pytest.approx(1e-4, rel=0.2)
