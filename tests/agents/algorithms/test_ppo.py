"""PPO: its clips, its penalties, its entropy bonus and its early stop, against hand values."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from agents import PPO, ActorCritic
from agents.experience.rollout import Batch

EXACT = {"normalize_advantage": False, "vf_coef": 0.0, "max_grad_norm": None}


@pytest.fixture
def ppo(on_cartpole):
    """``ppo(...)``: PPO on CartPole without a critic's share in the loss."""
    return lambda **kwargs: on_cartpole(PPO, **{**EXACT, **kwargs})


def batch_at(agent, log_ratios: list[float], advantages: list[float]) -> Batch:
    """As many steps, whose ratio to the policy that acted is as chosen."""
    rollout = agent.collect()
    columns = {name: torch.zeros_like(rollout.rewards) for name in ("advantages", "returns")}
    batch = rollout.batch(**columns).take(torch.arange(len(log_ratios)))
    now = agent.policy.evaluate(batch).log_probs.detach()
    batch.old_log_probs = now - torch.tensor(log_ratios)[:, None]
    batch.advantages = torch.tensor(advantages)[:, None]
    return batch


def policy_gradient(agent, loss: torch.Tensor) -> torch.Tensor:
    parts = torch.autograd.grad(loss, agent.policy.actor_parameters())
    return torch.cat([part.flatten() for part in parts])


def log_prob_gradient(agent, batch: Batch, row: int) -> torch.Tensor:
    now = agent.policy.evaluate(batch)
    return policy_gradient(agent, now.log_probs[row, 0])


# The surrogate


@pytest.mark.parametrize(
    ("kwargs", "ratio", "advantage", "loss", "slope"),
    [
        ({}, 1.1, 2.0, -2.2, -2.2),
        ({}, 1.5, 2.0, -2.4, 0.0),  # a good action that became likely enough
        ({}, 0.5, -2.0, 1.6, 0.0),  # a bad one that became unlikely enough
        ({}, 4.0, -2.0, 8.0, 8.0),  # a bad one that became likely
        ({"dual_clip": 3.0}, 4.0, -2.0, 6.0, 0.0),
        ({"dual_clip": 3.0}, 2.5, -2.0, 5.0, 5.0),
        ({"dual_clip": 3.0}, 1.5, 2.0, -2.4, 0.0),
        ({"clip_range": None}, 1.5, 2.0, -3.0, -3.0),
        ({"clip_range": 0.6}, 1.5, 2.0, -3.0, -3.0),
        ({"clip_range": lambda left: 0.3 * left}, 1.5, 2.0, -2.6, 0.0),
    ],
)
def test_the_loss_and_its_gradient_at_a_ratio(kwargs, ratio, advantage, loss, slope, ppo):
    """The gradient is ``slope`` · ∇log π."""
    agent = ppo(**kwargs)
    batch = batch_at(agent, [torch.tensor(ratio).log().item()], [advantage])
    found, metrics = agent.loss(batch), batch.means
    assert found.item() == pytest.approx(loss, rel=1e-4)
    assert metrics["policy_loss"].item() == pytest.approx(loss, rel=1e-4)
    wanted = slope * log_prob_gradient(agent, batch, 0)
    assert_close(policy_gradient(agent, found), wanted, rtol=1e-3, atol=1e-6)


def test_the_share_of_clipped_steps_is_of_the_whole_batch_in_micro_batches(ppo):
    agent = ppo()
    batch = batch_at(agent, [0.0, 1.0, -1.0, 0.1, 0.1], [1.0] * 5)

    def clip_fraction(part):
        agent.loss(part)
        return part.means["clip_fraction"].item()

    assert clip_fraction(batch) == pytest.approx(2 / 5)
    parts = [clip_fraction(part) for part in batch.micro_batches(2)]
    assert parts == pytest.approx([1 / 5, 1 / 5, 0])


# Penalties


@pytest.mark.parametrize("reverse_kl", [False, True])
def test_the_kl_penalty_and_its_gradient(reverse_kl, ppo):
    """KL(π_old‖π): r − 1 − log r, slope r − 1. KL(π‖π_old): r log r − (r − 1), slope r log r."""
    agent = ppo(kl_loss_coef=10.0, reverse_kl=reverse_kl, clip_range=None)
    ratios = torch.tensor([1.5, 0.4])
    batch = batch_at(agent, ratios.log().tolist(), [0.0, 0.0])
    penalties = ratios * ratios.log() - (ratios - 1) if reverse_kl else ratios - 1 - ratios.log()
    slopes = ratios * ratios.log() if reverse_kl else ratios - 1
    loss, metrics = agent.loss(batch), batch.means
    assert loss.item() == pytest.approx(10 * penalties.mean().item(), rel=1e-4)
    wanted = sum(10 * slopes[row] / 2 * log_prob_gradient(agent, batch, row) for row in range(2))
    assert_close(policy_gradient(agent, loss), wanted, rtol=1e-3, atol=1e-5)
    forward = (ratios - 1 - ratios.log()).mean().item()
    assert metrics["approx_kl"].item() == pytest.approx(forward, rel=1e-4)


def test_an_adaptive_penalty_begins_above_zero(ppo):
    with pytest.raises(ValueError, match="begin with one above 0"):
        ppo(kl_loss_target=0.01)


def test_the_adaptive_penalty_sees_the_kl_of_the_last_step(ppo):
    """With one step a rollout the KL of that step's own loss is 0, which would halve β for ever."""
    agent = ppo(
        n_steps=64, n_epochs=1, learning_rate=0.05, kl_loss_coef=0.5, kl_loss_target=1e-6,
        clip_range=None, batch_size=None, normalize_advantage=True, vf_coef=0.5,
    )  # fmt: skip
    metrics = agent.update(agent.collect())
    assert metrics["first_approx_kl"] == 0 < metrics["kl_after"]
    assert agent.kl_loss_coef == 1.0  # doubled: far above the target
    agent.kl_loss_target = 1e6
    assert agent.update(agent.collect())["kl_loss_coef"] == agent.kl_loss_coef == 0.5


# The early stop


@pytest.fixture
def count_steps(monkeypatch):
    """``count_steps(agent)``: a list that grows by each step of the agent's optimiser."""

    def count(agent) -> list:
        steps, step = [], agent.optimizer.step
        monkeypatch.setattr(agent.optimizer, "step", lambda *given: steps.append(1) or step(*given))
        return steps

    return count


@pytest.mark.parametrize(("target_kl", "wanted"), [(None, 6), (1e6, 6), (1e-9, 1)])
def test_target_kl_stops_the_steps_on_a_rollout(target_kl, wanted, ppo, count_steps):
    """The first step sees π_old itself, whose KL is 0; before the second one it exceeds the target,
    so that the second is not taken."""
    agent = ppo(target_kl=target_kl, n_epochs=6, batch_size=None, learning_rate=0.01)
    steps = count_steps(agent)
    agent.update(agent.collect())
    assert len(steps) == wanted


def test_the_steps_stop_within_an_epoch(ppo, count_steps):
    agent = ppo(target_kl=1e-9, n_epochs=1, batch_size=8, n_steps=32, learning_rate=0.01)
    steps = count_steps(agent)
    metrics = agent.update(agent.collect())
    assert len(steps) == 1 and metrics["approx_kl"] > 0


@pytest.mark.parametrize(("kl", "goes_on"), [(0.149, True), (0.151, False)])
def test_they_stop_above_one_and_a_half_times_the_target(kl, goes_on, ppo):
    assert ppo(target_kl=0.1).too_far({"approx_kl": kl}) != goes_on


# The entropy bonus


@pytest.mark.parametrize("kind", [PPO, ActorCritic])
def test_the_entropy_bonus_is_subtracted_from_the_loss(kind, on_cartpole):
    agent = on_cartpole(kind, ent_coef=0.7, **EXACT)
    batch = batch_at(agent, [0.0] * 6, [0.0] * 6)
    batch.returns = torch.zeros(6, 1)
    with torch.no_grad():  # far from even, so that the entropy has a slope
        agent.policy.actor[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    features = agent.policy.features(batch.observations[:, 0])
    log_probs = agent.policy.actor(features).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    loss, metrics = agent.loss(batch), batch.means
    assert 0.1 < entropy < 0.69
    assert metrics["entropy"].item() == pytest.approx(entropy.item(), rel=1e-5)
    assert loss.item() == pytest.approx(-0.7 * entropy.item(), rel=1e-4)
    wanted = -0.7 * policy_gradient(agent, entropy)
    assert_close(policy_gradient(agent, loss), wanted, rtol=1e-3, atol=1e-6)


def test_the_entropy_bonus_of_text_is_that_of_the_whole_vocabulary(make_agent):
    agent = make_agent("PPO", ent_coef=0.7, vf_coef=0.0, policy_kwargs={"banned_tokens": (3,)})
    rollout = agent.collect()
    zeros = {name: torch.zeros_like(rollout.rewards) for name in ("advantages", "returns")}
    batch = rollout.batch(**zeros)
    loss, metrics = agent.loss(batch), batch.means
    now = agent.policy.evaluate(rollout, entropy=True)
    mean = now.entropy[rollout.mask].mean().item()
    assert 0 < mean < torch.tensor(7.0).log()
    assert metrics["entropy"].item() == pytest.approx(mean, rel=1e-5)
    assert loss.item() == pytest.approx(-0.7 * mean, rel=1e-4)


# The critic


def test_values_are_clipped_near_those_of_the_critic_that_acted(on_cartpole):
    """Values that have moved beyond the range leave the loss of the critic as it was."""
    agent = on_cartpole(PPO, n_steps=16, clip_range_vf=1e-9)
    rollout = agent.collect()
    batch = rollout.batch(advantages=rollout.rewards, returns=rollout.values + 10)
    with torch.no_grad():
        agent.policy.critic[-1].bias += 1  # towards the returns, far outside the range
    agent.loss(batch)
    assert batch.means["value_loss"].item() == pytest.approx(100, rel=1e-4)
    agent.clip_range_vf = None
    agent.loss(batch)
    assert batch.means["value_loss"].item() == pytest.approx(81, rel=1e-4)
