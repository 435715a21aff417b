"""Returns, GAE and group comparisons: hand-computed values, identities, masks."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.testing import assert_close

from agents.functional.advantages import (
    discounted_returns,
    generalized_advantages,
    group_centered,
    group_relative,
    leave_one_out,
    lookahead,
    moving_average_baseline,
    normalize,
    scaled,
    temporal_difference_errors,
    trajectory_return,
)

GAMMA, LAMBDA = 0.9, 0.8


def rows(*values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def rollout() -> dict[str, torch.Tensor]:
    """Two rows of six steps. Row 0: ends at 2, spends step 3 on a reset, is cut off by the row's
    end. Row 1: truncated at 3, then padding."""
    generator = torch.Generator().manual_seed(0)
    rewards, values, next_values = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64)
    episode_end = torch.zeros(2, 6, dtype=torch.bool)
    episode_end[0, 2] = episode_end[1, 3] = True
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 3] = False
    mask[1, 4:] = False
    # V(s_{t+1}) of a step is V of the next one within an episode, and is 0 where terminated
    same = ~episode_end[:, :-1] & mask[:, :-1] & mask[:, 1:]
    next_values[:, :-1] = torch.where(same, values[:, 1:], next_values[:, :-1])
    next_values[0, 2] = 0.0
    return dict(
        rewards=rewards, values=values, next_values=next_values, episode_end=episode_end, mask=mask
    )


def generalized(rollout, gae_lambda=LAMBDA, gamma=GAMMA, **changes) -> torch.Tensor:
    return generalized_advantages(**rollout | changes, gamma=gamma, gae_lambda=gae_lambda)


def returns(rollout, gamma=GAMMA, **changes) -> torch.Tensor:
    arguments = {name: rollout[name] for name in ("rewards", "episode_end", "next_values", "mask")}
    return discounted_returns(**arguments | changes, gamma=gamma)


# Returns


def test_returns_by_hand():
    rewards = rows([1, 2, 4, 8])
    episode_end = torch.tensor([[False, True, False, False]])
    bootstrap = rows([100, 10, 100, 20])
    assert_close(discounted_returns(rewards, episode_end, 0.5), rows([2, 2, 8, 8]))
    assert_close(discounted_returns(rewards, episode_end, 0.5, bootstrap), rows([4.5, 7, 13, 18]))


def test_returns_of_text_repeat_the_final_score():
    rewards, episode_end = torch.zeros(1, 5), torch.zeros(1, 5, dtype=torch.bool)
    rewards[0, 3], episode_end[0, 3] = 7.0, True
    assert discounted_returns(rewards, episode_end, gamma=1.0).tolist() == [[7, 7, 7, 7, 0]]


def test_returns_ignore_next_values_within_an_episode(rollout):
    changed = rollout["next_values"].clone()
    changed[0, :2] += 1.0
    changed[1, :3] = torch.nan
    assert torch.equal(returns(rollout, next_values=changed), returns(rollout))


def test_returns_are_expected_where_the_row_is_cut(rollout):
    last = rollout["rewards"][0, 5] + GAMMA * rollout["next_values"][0, 5]
    assert_close(returns(rollout)[0, 5], last)


@pytest.mark.parametrize(
    ("gamma", "wanted"), [(1.0, [[7] * 3, [1] * 3]), (0.5, [[3] * 3, [1] * 3])]
)
def test_trajectory_return(gamma, wanted):
    """Σ γ^t r_t of the counted steps: 1 + 2/2 + 4/4, and 1."""
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, torch.nan, torch.nan]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert trajectory_return(rewards, gamma, mask).tolist() == wanted


# Temporal differences and GAE


def test_generalized_advantages_by_hand():
    rewards, values, next_values = rows([1, 2, 3]), rows([4, 5, 6]), rows([5, 0, 10])
    episode_end = torch.tensor([[False, True, False]])
    errors = temporal_difference_errors(rewards, values, next_values, 0.5)
    assert_close(errors, rows([-0.5, -3, 2]))
    advantages = generalized_advantages(rewards, values, next_values, episode_end, 0.5, 0.5)
    assert_close(advantages, rows([-0.5 + 0.25 * -3, -3, 2]))


def test_lambda_0_is_the_temporal_difference_error(rollout):
    arguments = {name: value for name, value in rollout.items() if name != "episode_end"}
    errors = temporal_difference_errors(**arguments, gamma=GAMMA)
    assert_close(generalized(rollout, gae_lambda=0.0), errors)


def test_lambda_1_is_the_return_less_the_value(rollout):
    expected = torch.where(rollout["mask"], returns(rollout) - rollout["values"], 0.0)
    assert_close(generalized(rollout, gae_lambda=1.0), expected)


def test_generalized_advantages_are_the_sum_of_discounted_errors(rollout):
    arguments = {name: value for name, value in rollout.items() if name != "episode_end"}
    errors = temporal_difference_errors(**arguments, gamma=GAMMA)
    expected = torch.zeros_like(errors)
    for row, start, stop in [(0, 0, 3), (0, 4, 6), (1, 0, 4)]:
        for t in range(start, stop):
            expected[row, t] = sum(
                (GAMMA * LAMBDA) ** (k - t) * errors[row, k] for k in range(t, stop)
            )
    assert_close(generalized(rollout), expected)


def test_nothing_crosses_an_end(rollout):
    changed = rollout["rewards"].clone()
    changed[0, 4:] += 100.0
    for compute in (generalized, returns):
        assert torch.equal(compute(rollout, rewards=changed)[0, :3], compute(rollout)[0, :3])


def test_a_masked_step_cuts_the_row_even_without_an_end(rollout):
    never = torch.zeros_like(rollout["episode_end"])
    assert torch.equal(generalized(rollout, episode_end=never), generalized(rollout))
    assert torch.equal(returns(rollout, episode_end=never), returns(rollout))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -1e30])
@pytest.mark.parametrize("name", ["rewards", "values", "next_values"])
def test_masked_steps_never_leak(poison, name, rollout):
    changed = {name: torch.where(rollout["mask"], rollout[name], poison)}
    assert torch.equal(generalized(rollout, **changed), generalized(rollout))
    if name != "values":
        assert torch.equal(returns(rollout, **changed), returns(rollout))


def test_arguments_are_left_alone(rollout):
    before = {name: value.clone() for name, value in rollout.items()}
    generalized(rollout)
    returns(rollout)
    assert all(torch.equal(rollout[name], value) for name, value in before.items())


# Baselines and groups


def test_moving_average_baseline():
    assert moving_average_baseline(10.0, 20.0, momentum=0.9) == pytest.approx(11.0)
    assert moving_average_baseline(10.0, 20.0, momentum=0.0) == 20.0


SCORES = torch.tensor([1.0, 2.0, 5.0, 3.0])


def test_group_values_by_hand():
    half = math.sqrt(0.5)
    expected = torch.tensor([-half, half, half, -half])
    assert_close(group_relative(SCORES, 2, epsilon=0.0), expected)
    assert_close(group_relative(SCORES, 2), expected, atol=2e-4, rtol=0)
    assert leave_one_out(SCORES, 2).tolist() == [-1, 1, 2, -2]
    assert group_centered(SCORES, 2).tolist() == [-0.5, 0.5, 1, -1]


def test_group_relative_has_unit_deviation_and_knows_no_scale():
    scores = torch.randn(12, generator=torch.Generator().manual_seed(0))
    relative = group_relative(scores, 4, epsilon=0.0)
    assert_close(relative.view(3, 4).std(dim=1), torch.ones(3))
    assert_close(group_relative(3 * scores + 7, 4, epsilon=0.0), relative)


@given(
    score=st.floats(-1e6, 1e6, width=32),
    group_size=st.integers(2, 9),
    groups=st.integers(1, 3),
)
def test_equal_scores_give_exactly_zero(score, group_size, groups):
    scores = torch.full((group_size * groups,), score)
    for compute in (group_relative, group_centered, leave_one_out):
        assert not compute(scores, group_size).any()


@given(
    scores=st.lists(st.floats(-100, 100), min_size=12, max_size=12),
    group_size=st.sampled_from([2, 3, 4, 6]),
)
def test_group_identities(scores, group_size):
    scores = torch.tensor(scores, dtype=torch.float64)
    zero = torch.zeros(len(scores) // group_size, dtype=torch.float64)
    for compute in (group_centered, leave_one_out):
        assert_close(compute(scores, group_size).view(-1, group_size).sum(dim=1), zero)
    others = [
        scores[i] - torch.cat([group[:j], group[j + 1 :]]).mean()
        for group, start in zip(scores.split(group_size), range(0, 12, group_size), strict=True)
        for j, i in enumerate(range(start, start + group_size))
    ]
    assert_close(leave_one_out(scores, group_size), torch.stack(others))


@pytest.mark.parametrize("group_size", [0, 1, 3])
def test_groups_must_fit(group_size):
    with pytest.raises(ValueError, match=f"got {group_size}"):
        leave_one_out(SCORES, group_size)


def test_scores_must_be_a_vector():
    with pytest.raises(ValueError, match=r"scores must be \[N\]"):
        group_relative(SCORES.view(2, 2), 2)


# Normalising


def test_normalize():
    torch.manual_seed(0)
    advantages, mask = 5 + 3 * torch.randn(4, 8), torch.rand(4, 8) < 0.6
    normalized = normalize(advantages, mask)
    assert_close(normalized[mask].mean(), torch.tensor(0.0))
    assert_close(normalized[mask].std(), torch.tensor(1.0))  # with Bessel's correction
    assert not normalized[~mask].any()
    poisoned = torch.where(mask, advantages, torch.nan)
    assert torch.equal(normalize(poisoned, mask), normalized)


def test_normalize_by_hand():
    mask = torch.tensor([[True, True, False]])
    half = math.sqrt(0.5)
    assert_close(normalize(rows([1, 3, 50]), mask), rows([-half, half, 0]))


def test_normalize_of_equal_or_few_advantages_is_zero():
    advantages = torch.full((7, 11), 0.1)
    everything = torch.ones(7, 11, dtype=torch.bool)
    assert not normalize(advantages, everything).any()
    sole = torch.zeros_like(everything)
    assert not normalize(advantages, sole).any()
    sole[2, 3] = True
    assert not normalize(advantages, sole).any()


# Shapes


def test_shapes_are_checked(rollout):
    with pytest.raises(ValueError, match=r"values \[2, 5\]"):
        generalized(rollout, values=rollout["values"][:, :5])
    with pytest.raises(ValueError, match=r"rewards must be \[B, T\]"):
        discounted_returns(torch.zeros(3), torch.zeros(3, dtype=torch.bool), 0.9)
    with pytest.raises(TypeError, match="episode_end must be a bool tensor"):
        generalized(rollout, episode_end=rollout["episode_end"].float())


def test_finite_differences(rollout):
    inputs = [rollout[name].clone().requires_grad_() for name in ("rewards", "values")]
    arguments = rollout["next_values"], rollout["episode_end"], GAMMA, LAMBDA, rollout["mask"]
    assert torch.autograd.gradcheck(
        lambda rewards, values: generalized_advantages(rewards, values, *arguments), inputs
    )


def test_scaled_divides_by_the_deviation_of_counted_steps_and_keeps_their_mean():
    advantages = torch.tensor([[1.0, 3.0, 99.0]])
    mask = torch.tensor([[True, True, False]])
    deviation = 2**0.5  # of 1 and 3, with Bessel's correction
    expected = torch.tensor([[1 / deviation, 3 / deviation, 0.0]])
    assert_close(scaled(advantages, mask), expected)


def test_lookahead_by_hand():
    """One state, three actions: leave-one-out over them, and what came later for the first."""
    action_values = torch.tensor([[[3.0, 5.0, 4.0]]])
    mask = torch.tensor([[True]])
    one = lambda value: torch.tensor([[value]])  # noqa: E731
    found = lookahead(one(2.5), one(1.0), action_values, mask, future=0.25)
    # (3 − 4.5)/3, (5 − 3.5)/3, (4 − 4)/3; later: 2.5 − (3 − 1) − 0.25
    assert found[0, 0].tolist() == pytest.approx([-0.5 + 0.25, 0.5, 0.0])
    assert (lookahead(one(2.5), one(1.0), action_values, ~mask) == 0).all()
