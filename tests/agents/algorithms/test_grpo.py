"""GRPO and RLOO: comparisons within groups, and GRPO's KL in the loss."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from agents import GRPO, RLOO, ActorCritic
from agents.functional import advantages, reductions


def with_ratios(agent, log_ratios: torch.Tensor):
    """A rollout's batch with zero advantages, whose ratio to the policy that acted is as chosen."""
    rollout = agent.collect()
    batch = rollout.batch(advantages=torch.zeros_like(rollout.rewards))
    now = agent.policy.evaluate(batch).log_probs.detach()
    batch.old_log_probs = now - log_ratios[: len(now), : now.shape[1]]
    return batch, now


# The KL in the loss


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_kl_in_the_loss(unbiased, make_agent):
    """k3 = q − 1 − log q with q = π_ref / π; unbiased, it is weighted by r = π / π_old."""
    agent = make_agent("GRPO", kl_loss_coef=2.0, unbiased_kl=unbiased)
    log_ratios = torch.linspace(-0.5, 0.5, 80).reshape(16, 5)
    batch, now = with_ratios(agent, log_ratios)
    gap = batch.reference_log_probs - now
    k3 = gap.exp() - 1 - gap
    if unbiased:
        k3 = k3 * log_ratios[:, : now.shape[1]].exp()
    lengths = batch.mask.sum(dim=1)
    by_hand = ((k3 * batch.mask).sum(dim=1) / lengths).mean().item()
    assert agent.loss(batch).item() == pytest.approx(2 * by_hand, rel=1e-4)
    assert by_hand > 0.05


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_gradient_of_the_kl_in_the_loss(unbiased, make_agent):
    """By log π: of k3, 1 − q; of r·k3, r·(k3 + 1 − q)."""
    agent = make_agent(
        "GRPO", kl_loss_coef=2.0, unbiased_kl=unbiased, reduction=reductions.token_mean
    )
    log_ratios = torch.linspace(-0.5, 0.5, 80).reshape(16, 5)
    batch, _ = with_ratios(agent, log_ratios)
    evaluation = agent.policy.evaluate(batch)
    gap = (batch.reference_log_probs - evaluation.log_probs).detach()
    slopes = 1 - gap.exp()
    if unbiased:
        ratios = log_ratios[:, : gap.shape[1]].exp()
        slopes = ratios * (gap.exp() - 1 - gap + slopes)
    parameters = agent.policy.actor_parameters()
    by_hand = 2 * (slopes * evaluation.log_probs)[batch.mask].mean()
    wanted = torch.autograd.grad(by_hand, parameters)
    found = torch.autograd.grad(agent.loss(batch), parameters)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_kl_in_the_loss_needs_a_reference(make_agent):
    agent = make_agent("GRPO", env={"reference": None}, kl_loss_coef=0.04)
    with pytest.raises(ValueError, match=r"kl_loss_coef > 0 needs a reference.*reference="):
        agent.learn(4)


def test_without_a_coefficient_no_reference_is_needed(make_text_envs, make_model):
    agent = GRPO(
        "CausalLMPolicy", make_text_envs(8, group_size=4), group_size=4, seed=0,
        policy_kwargs={"model": make_model()},
    )  # fmt: skip
    assert agent.kl_loss_coef == 0
    agent.learn(4)


# The clip, higher above than below


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"), [(1.25, 1.0, -1.25), (1.5, 1.0, -1.28), (0.5, -1.0, 0.8)]
)
def test_the_clip_may_be_wider_above(ratio, advantage, loss, make_agent):
    agent = make_agent(
        "GRPO", env={"reference": None}, kl_loss_coef=0.0, clip_range_high=0.28,
        reduction=reductions.token_mean,
    )  # fmt: skip
    batch, _ = with_ratios(agent, torch.tensor(ratio).log().expand(16, 5))
    batch.advantages = torch.full_like(batch.old_log_probs, advantage)
    assert agent.loss(batch).item() == pytest.approx(loss, rel=1e-4)


# Groups


@pytest.mark.parametrize(
    ("name", "kwargs", "compare"),
    [
        ("GRPO", {}, advantages.group_relative),
        ("GRPO", {"advantage_fn": advantages.group_centered}, advantages.group_centered),
        ("RLOO", {}, advantages.leave_one_out),
    ],
)
def test_answers_are_compared_with_those_to_the_same_prompt(
    name, kwargs, compare, make_agent, monkeypatch
):
    agent = make_agent(name, **kwargs)
    rollout = agent.collect()
    starts = rollout.observations["prompt_lengths"].reshape(-1, 4)
    assert (starts == starts[:, :1]).all()
    batches = []

    def noting(batch, stop):
        batches.append(batch)
        return {"": 0.0}, True

    monkeypatch.setattr(agent, "optimizer_step", noting)
    agent.update(rollout)
    wanted = compare(rollout.rewards.sum(dim=1), 4)
    assert wanted.abs().max() > 0.1
    assert_close(batches[0].advantages, wanted[:, None].expand_as(rollout.rewards))


@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_groups_need_whole_episodes(kind, wrapped, make_model):
    envs = wrapped(4, group_size=2)
    agent = kind(
        "CausalLMPolicy", envs, group_size=2, n_steps=8, policy_kwargs={"model": make_model()}
    )
    with pytest.raises(ValueError, match="one whole episode in each row"):
        agent.learn(10)


def test_dr_grpo_and_dapo_are_a_choice_of_arguments(make_agent):
    """The same rollout and advantages, reduced in three ways."""
    losses = []
    for reduction in (
        reductions.sequence_mean,
        partial(reductions.constant_length, length=5),
        reductions.token_mean,
    ):
        agent = make_agent("GRPO", reduction=reduction, kl_loss_coef=0.0)
        rollout = agent.collect()
        returns = rollout.rewards.sum(dim=1, keepdim=True).expand_as(rollout.rewards)
        losses.append(agent.loss(rollout.batch(advantages=returns)).item())
        lengths = rollout.mask.sum(dim=1)
        sums = -(returns * rollout.mask).sum(dim=1)
    wanted = [(sums / lengths).mean(), sums.mean() / 5, sums.sum() / lengths.sum()]
    assert losses == pytest.approx([number.item() for number in wanted], rel=1e-4)
    assert len({round(loss, 3) for loss in losses}) == 3


# Actor-critic, whose loss has no ratio


def test_the_loss_of_the_actor_critic_by_hand(make_agent):
    agent = make_agent("ActorCritic", vf_coef=0.3)
    assert isinstance(agent, ActorCritic)
    rollout = agent.collect()
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, *rollout.mask.shape, generator=generator)
    batch = rollout.batch(advantages=one, returns=other)
    loss, metrics = agent.loss(batch), batch.means
    policy_loss = -(rollout.log_probs * one)[rollout.mask].mean().item()
    value_loss = (rollout.values - other)[rollout.mask].square().mean().item()
    assert metrics["policy_loss"].item() == pytest.approx(policy_loss, rel=1e-3)
    assert metrics["value_loss"].item() == pytest.approx(value_loss, rel=1e-3)
    assert loss.item() == pytest.approx(policy_loss + 0.3 * value_loss, rel=1e-3)
