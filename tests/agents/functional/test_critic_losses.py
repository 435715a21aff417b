"""Losses of the value function."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from agents.functional.critic_losses import clipped_squared_error, squared_error

OLD = torch.zeros(1, 4, dtype=torch.float64)
VALUES = torch.tensor([[0.1, 1.0, 1.0, -1.0]], dtype=torch.float64)
RETURNS = torch.tensor([[2.0, 2.0, 0.0, 2.0]], dtype=torch.float64)


def test_squared_error_by_hand():
    assert_close(squared_error(VALUES, RETURNS), OLD.new_tensor([[3.61, 1, 1, 9]]))


def test_clipped_squared_error_by_hand():
    """Inside the range; too far towards the return; away from it on either side."""
    losses = clipped_squared_error(VALUES, OLD, RETURNS, 0.2)
    assert_close(losses, OLD.new_tensor([[3.61, 1.8**2, 1, 9]]))


def test_clipping_only_stops_progress():
    values = VALUES.clone().requires_grad_()
    clipped_squared_error(values, OLD, RETURNS, 0.2).sum().backward()
    assert (values.grad != 0).tolist() == [[True, False, True, True]]


def test_an_infinite_range_clips_nothing():
    losses = clipped_squared_error(VALUES, OLD, RETURNS, float("inf"))
    assert torch.equal(losses, squared_error(VALUES, RETURNS))


def test_gradients_flow_into_values_only():
    values, old, returns = (tensor.clone().requires_grad_() for tensor in (VALUES, OLD, RETURNS))
    loss = (squared_error(values, returns) + clipped_squared_error(values, old, returns, 5)).sum()
    into = torch.autograd.grad(loss, (values, old, returns), allow_unused=True)
    assert into[0].all() and into[1] is None and into[2] is None


@pytest.mark.parametrize(
    "loss",
    [
        lambda values: squared_error(values, RETURNS),
        lambda values: clipped_squared_error(values, OLD, RETURNS, 0.2),
    ],
)
def test_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, VALUES.clone().requires_grad_())


def test_nothing_broadcasts():
    with pytest.raises(ValueError, match=r"values \[2, 3\], returns \[2, 1\]"):
        squared_error(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"old_values \[3\]"):
        clipped_squared_error(torch.zeros(2, 3), torch.zeros(3), torch.zeros(2, 3), 0.2)
