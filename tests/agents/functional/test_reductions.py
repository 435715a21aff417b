"""How losses become one number: values, masks, and micro-batches that add up to the whole."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.testing import assert_close

from agents.functional import reductions


def constant_length(losses, mask, counts=None):
    return reductions.constant_length(losses, mask, counts, length=8)


BY_SEQUENCE = [reductions.sequence_mean, reductions.sequence_sum, constant_length]
ALL = [reductions.token_mean, *BY_SEQUENCE]

LOSSES = torch.tensor([[1.0, 2.0, 6.0], [4.0, 50.0, 50.0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


def counts_of(mask: torch.Tensor) -> reductions.Counts:
    return reductions.Counts(int(mask.sum()), int(mask.any(dim=1).sum()))


@st.composite
def batches(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and a mask with at least one counted step; rows may be empty."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 5)))
    size = shape[0] * shape[1]
    bits = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    losses = torch.randn(shape, generator=generator, dtype=torch.float64)
    return losses, torch.tensor(bits).view(shape)


def test_values_by_hand():
    assert reductions.token_mean(LOSSES, MASK).item() == pytest.approx(13 / 4)
    assert reductions.sequence_mean(LOSSES, MASK).item() == pytest.approx((3 + 4) / 2)
    assert reductions.sequence_sum(LOSSES, MASK).item() == pytest.approx((9 + 4) / 2)
    assert constant_length(LOSSES, MASK).item() == pytest.approx((9 + 4) / 2 / 8)


def test_all_agree_on_full_rows():
    losses, everything = torch.randn(3, 8), torch.ones(3, 8, dtype=torch.bool)
    for reduction in (reductions.token_mean, reductions.sequence_mean, constant_length):
        assert_close(reduction(losses, everything), losses.mean())


@pytest.mark.parametrize("reduction", ALL)
@given(batch=batches())
def test_masked_losses_never_leak(reduction, batch):
    losses, mask = batch
    poisoned = torch.where(mask, losses, torch.nan).requires_grad_()
    value = reduction(poisoned, mask)
    assert torch.equal(value, reduction(losses, mask))
    value.backward()
    assert not poisoned.grad[~mask].any()


@pytest.mark.parametrize("reduction", ALL)
@given(batch=batches(), rows=st.integers(1, 3), columns=st.integers(0, 3))
def test_padding_changes_nothing(reduction, batch, rows, columns):
    losses, mask = (torch.nn.functional.pad(x, (0, columns, 0, rows)) for x in batch)
    assert_close(reduction(losses, mask), reduction(*batch))


@pytest.mark.parametrize("reduction", ALL)
@given(batch=batches(), size=st.integers(1, 3))
def test_micro_batches_add_up_to_the_whole(reduction, batch, size):
    losses, mask = batch
    losses.requires_grad_()
    whole = reduction(losses, mask)
    expected = torch.autograd.grad(whole, losses)[0]
    counts = counts_of(mask)
    total = torch.tensor(0.0, dtype=torch.float64)
    for micro_losses, micro_mask in zip(losses.split(size), mask.split(size), strict=True):
        micro = reduction(micro_losses, micro_mask, counts)  # finite even without a step
        micro.backward()
        total += micro.detach()
    assert_close(total, whole.detach())
    assert_close(losses.grad, expected)


def test_episodes_may_be_spread_over_single_steps():
    """Four steps of two episodes, each step a row of its own: the sum is still over an episode."""
    steps = LOSSES[MASK][:, None]
    everything = torch.ones_like(steps, dtype=torch.bool)
    counts = reductions.Counts(steps=4, episodes=2)
    assert reductions.sequence_sum(steps, everything, counts).item() == pytest.approx(13 / 2)
    assert reductions.token_mean(steps, everything, counts).item() == pytest.approx(13 / 4)
    assert constant_length(steps, everything, counts).item() == pytest.approx(13 / 2 / 8)


def test_a_mean_of_means_would_not_do():
    means = [reductions.token_mean(LOSSES[i : i + 1], MASK[i : i + 1]) for i in range(2)]
    assert sum(means).item() / 2 != pytest.approx(reductions.token_mean(LOSSES, MASK).item())


@pytest.mark.parametrize("reduction", ALL)
def test_nothing_to_count_is_nan(reduction):
    assert reduction(LOSSES, torch.zeros_like(MASK)).isnan()


@pytest.mark.parametrize("reduction", ALL)
def test_finite_differences(reduction):
    losses = LOSSES.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda losses: reduction(losses, MASK), losses)


@pytest.mark.parametrize("reduction", ALL)
def test_arguments_are_checked(reduction):
    with pytest.raises(ValueError, match=r"losses \[2, 3\], mask \[2, 1\]"):
        reduction(LOSSES, MASK[:, :1])
    with pytest.raises(ValueError, match=r"losses must be \[B, T\]"):
        reduction(LOSSES[0], MASK[0])
    with pytest.raises(TypeError, match=r"mask must be a bool tensor, got torch\.float32"):
        reduction(LOSSES, MASK.float())
