"""REINFORCE: its returns, its baseline, its reduction, and the KL in its loss, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from agents import REINFORCE
from agents.experience.rollout import Rollout

PLAIN = {"normalize_advantage": False, "baseline_momentum": None, "max_grad_norm": None}


@pytest.fixture
def captured(monkeypatch):
    """``captured(agent, rollout)``: the batches that an update would descend on."""

    def capture(agent, rollout: Rollout) -> list:
        batches: list = []

        def noting(batch, stop):
            batches.append(batch)
            return {"": 0.0}, True

        monkeypatch.setattr(agent, "optimizer_step", noting)
        agent.update(rollout)
        return batches

    return capture


# Returns


@pytest.mark.parametrize(
    ("return_to_go", "wanted"),
    [(True, [3.0, 4.0, 4.0]), (False, [3.0, 3.0, 3.0])],  # 1 + 2/2 + 4/4, 2 + 4/2, 4
)
def test_both_kinds_of_return_are_discounted(return_to_go, wanted, make_agent, captured):
    agent = make_agent(
        "REINFORCE", 4, env={"max_new_tokens": 3, "min_new_tokens": 3, "stop": None},
        gamma=0.5, return_to_go=return_to_go, **PLAIN,
    )  # fmt: skip
    rollout = agent.collect()
    rollout.rewards = torch.tensor([1.0, 2.0, 4.0]).repeat(4, 1)
    (batch,) = captured(agent, rollout)
    assert_close(batch.advantages, torch.tensor(wanted).repeat(4, 1))


def test_the_whole_return_needs_whole_episodes(on_cartpole):
    with pytest.raises(ValueError, match="one whole episode in each row"):
        on_cartpole(REINFORCE, return_to_go=False, n_steps=128).learn(10)


# The baseline


def test_the_baseline_of_three_rollouts_by_hand(make_agent, captured):
    """0; then the mean of the first rollout; then the moving average."""
    agent = make_agent("REINFORCE", 4, baseline_momentum=0.9, normalize_advantage=False)
    assert agent.baseline is None
    rollout = agent.collect()
    found = []
    for mean in (5.0, 7.0, 1.0):
        rewards = torch.where(rollout.episode_end, mean, 0.0)
        (batch,) = captured(agent, replace(rollout, rewards=rewards))
        assert batch.advantages[rollout.mask].unique().numel() == 1
        found.append((batch.advantages[0, 0].item(), agent.baseline))
    wanted = [(5 - 0, 5), (7 - 5, 0.9 * 5 + 0.1 * 7), (1 - 5.2, 0.9 * 5.2 + 0.1 * 1)]
    assert np.array(found) == pytest.approx(np.array(wanted), rel=1e-5)


def test_without_momentum_nothing_is_subtracted(make_agent, captured):
    agent = make_agent("REINFORCE", 4, **PLAIN)
    rollout = agent.collect()
    for _ in range(2):
        rewards = torch.where(rollout.episode_end, 5.0, 0.0)
        (batch,) = captured(agent, replace(rollout, rewards=rewards))
        assert (batch.advantages[rollout.mask] == 5).all()
    assert agent.baseline is None


def test_advantages_are_scaled_but_not_centred(make_agent, captured):
    agent = make_agent("REINFORCE", **{**PLAIN, "normalize_advantage": True})
    rollout = agent.collect()
    rewards = torch.where(rollout.episode_end, 5 + torch.arange(16.0)[:, None], 0.0)
    (batch,) = captured(agent, replace(rollout, rewards=rewards))
    returns = torch.arange(16.0)[:, None].expand_as(rewards)[rollout.mask] + 5
    assert_close(batch.advantages[rollout.mask], returns / returns.std(), rtol=1e-4, atol=1e-4)


# The sum over an episode, and the mean over episodes


def test_the_loss_of_text_by_hand(make_agent):
    agent = make_agent("REINFORCE", **PLAIN)
    rollout = agent.collect()
    assert rollout.mask.sum(dim=1).unique().numel() > 1
    advantages = torch.arange(1.0, 17.0)[:, None].expand_as(rollout.rewards)
    loss = agent.loss(rollout.batch(advantages=advantages))
    sums = (rollout.log_probs * advantages * rollout.mask).sum(dim=1)
    assert loss.item() == pytest.approx(-sums.sum().item() / 16, rel=1e-4)


def test_the_loss_of_single_steps_by_hand(on_cartpole, captured):
    """The same where the steps of an episode lie in a row with those of others."""
    agent = on_cartpole(REINFORCE, n_steps=64, gamma=0.9, **PLAIN)
    rollout = agent.collect()
    by_hand, episodes = 0.0, 0
    for row in range(2):
        begin = 0
        for end in rollout.episode_end[row].nonzero()[:, 0].tolist():
            counted = rollout.mask[row, begin : end + 1]  # a reset takes a step of its own
            rewards = rollout.rewards[row, begin : end + 1][counted]
            for t, log_prob in enumerate(rollout.log_probs[row, begin : end + 1][counted]):
                discounts = 0.9 ** torch.arange(len(rewards) - t)
                by_hand -= (log_prob * (discounts * rewards[t:]).sum()).item()
            begin, episodes = end + 1, episodes + 1
    assert episodes > 2
    (batch,) = captured(agent, rollout)
    assert batch.counts.episodes == episodes
    assert agent.loss(batch).item() == pytest.approx(by_hand / episodes, rel=1e-4)


# Episodes without an end


def test_reinforce_needs_an_episode_that_ends(on_cartpole):
    with pytest.raises(ValueError, match=r"No episode ended within .* raise n_steps"):
        on_cartpole(REINFORCE, n_steps=4).learn(8)


def test_reinforce_leaves_unfinished_episodes_out(on_cartpole, captured):
    agent = on_cartpole(REINFORCE, n_steps=128)
    rollout = agent.collect()
    lasts = [np.flatnonzero(row)[-1] for row in rollout.episode_end.numpy()]
    completed = rollout.completed().mask
    columns = torch.arange(rollout.mask.shape[1])
    up_to_the_last_end = columns <= torch.tensor(lasts)[:, None]
    assert torch.equal(completed, rollout.mask & up_to_the_last_end)
    (batch,) = captured(agent, rollout)
    assert len(batch) == completed.sum() < rollout.num_steps


# The KL to the reference


def test_the_kl_in_the_loss_is_the_same_step_by_step(
    mode, make_agent, make_model, make_text_envs, wrapped
):
    kwargs = dict(reference=make_model(seed=1), max_new_tokens=4, min_new_tokens=4)
    settings = dict(kl_loss_coef=3.0, n_steps=4, **PLAIN)
    whole = make_agent("REINFORCE", envs=make_text_envs(6, **kwargs), **settings)
    steps = make_agent("REINFORCE", envs=wrapped(6, autoreset_mode=mode, **kwargs), **settings)
    metrics = [agent.update(agent.collect()) for agent in (whole, steps)]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4)
    for one, other in zip(whole.policy.parameters(), steps.policy.parameters(), strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_kl_in_the_loss_draws_the_policy_to_its_reference(make_agent, make_model):
    envs = {"reference": make_model(seed=1), "reward": lambda episodes: [0.0] * len(episodes)}
    agent = make_agent("REINFORCE", 64, env=envs, kl_loss_coef=1.0, **PLAIN)
    before = np.mean(agent.collect().episodes["kl"])
    agent.learn(64 * 30)
    assert np.mean(agent.collect().episodes["kl"]) < before / 2
