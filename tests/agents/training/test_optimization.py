"""One optimiser step: groups of parameters, micro-batches, and reductions of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from agents import PPO
from agents.functional import reductions
from agents.functional.reductions import token_mean
from agents.training.optimization import make_optimizer, optimizer_step, set_learning_rate


class TwoGroups(PPO):
    """A learning rate for the critic that is not the policy's."""

    def trained_parameters(self):
        return [
            {"params": self.policy.actor_parameters()},
            {"params": self.policy.critic_parameters(), "weight_decay": 0.1},
        ]


@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_all_groups_of_parameters_move_and_each_is_clipped(micro_batch_size, on_cartpole, weights):
    agent = on_cartpole(
        TwoGroups, micro_batch_size=micro_batch_size, n_epochs=1, batch_size=None,
        max_grad_norm=0.01, vf_coef=0.5,
    )  # fmt: skip
    assert len(agent.optimizer.param_groups) == 2
    before = weights(agent)
    metrics = agent.update(agent.collect())
    for name, parameter in agent.policy.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    for group in agent.optimizer.param_groups:
        norm = torch.stack([p.grad.norm() for p in group["params"]]).norm()
        assert norm.item() == pytest.approx(0.01, rel=1e-3)
    assert metrics["grad_norm"] > 0.02


def test_groups_follow_the_learning_rate_of_the_agent(on_cartpole):
    agent = on_cartpole(TwoGroups, learning_rate=lambda left: 1e-3 * left, n_epochs=1)
    agent.learn(64)  # some of which only reset a row, so it takes two rollouts
    left = [group["lr"] / 1e-3 for group in agent.optimizer.param_groups]
    assert left[0] == left[1] == pytest.approx(1 - 62 / 64, abs=2 / 64)


def test_a_saved_optimiser_of_several_groups_goes_on(on_cartpole, tmp_path):
    agent = on_cartpole(TwoGroups, n_epochs=1)
    agent.learn(64).save(tmp_path)
    again = TwoGroups.load(tmp_path)
    states = [run.optimizer.state_dict()["state"] for run in (agent, again)]
    assert_close(states[1], states[0], rtol=0, atol=0)
    assert again.optimizer.param_groups[1]["weight_decay"] == 0.1


# Reductions


@pytest.mark.parametrize("micro_batch_size", [None, 5])
@pytest.mark.parametrize("reduction", [token_mean, reductions.sequence_sum])
def test_a_reduction_may_be_any_function_that_does_the_same(
    reduction, micro_batch_size, make_agent
):
    """Which counts matter is said by the function, not guessed from its name."""
    runs = []
    for chosen in (reduction, lambda losses, mask, counts: reduction(losses, mask, counts)):
        agent = make_agent(
            "GRPO", reduction=chosen, micro_batch_size=micro_batch_size, kl_loss_coef=0.04
        )
        metrics = agent.update(agent.collect())
        runs.append((metrics, dict(agent.policy.named_parameters())))
    assert runs[0][0] == runs[1][0]
    assert_close(runs[0][1], runs[1][1], rtol=0, atol=0)


def test_the_metrics_and_gradients_of_micro_batches_add_up(make_agent):
    losses = []
    for size in (None, 3):
        agent = make_agent("PPO")
        rollout = agent.collect()
        columns = {"advantages": rollout.rewards + 1, "returns": rollout.rewards}
        batch = rollout.batch(**columns)
        optimizer = torch.optim.SGD(agent.policy.parameters(), lr=0.0)
        metrics, _ = optimizer_step(agent.loss, batch, optimizer, size)
        losses.append((metrics, [p.grad for p in agent.policy.parameters()]))
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-3, abs=1e-6)
    for one, other in zip(losses[1][1], losses[0][1], strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_group_keeps_its_own_learning_rate_along_a_schedule():
    one, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [{"params": [one]}, {"params": [other], "lr": 5e-3}]
    optimizer = make_optimizer(groups, lambda remaining: 1e-2 * remaining, 0.0, 1e-5)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, 5e-3]
    set_learning_rate(optimizer, 2e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 1e-3]


@pytest.mark.parametrize("rate", [lambda remaining: 1e-2 * (1 - remaining), 0.0])
def test_a_group_keeps_its_own_learning_rate_where_the_common_one_begins_at_0(rate):
    """A warm-up, and a policy that does not learn at all."""
    one, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [{"params": [one]}, {"params": [other], "lr": 5e-3}]
    optimizer = make_optimizer(groups, rate, 0.0, 1e-5)
    top = 1e-2 if rate else 0.0
    set_learning_rate(optimizer, top, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [top / 2, 2.5e-3]


@pytest.mark.parametrize("rate", [lambda remaining: 1e-2 * (1 - remaining), 0.0])
def test_the_critic_s_own_rate_is_not_lost(rate, on_cartpole):
    agent = on_cartpole(PPO, learning_rate=rate, vf_learning_rate=5e-3, lr_schedule="constant")
    agent.progress_remaining = 0.0
    set_learning_rate(agent.optimizer, agent.scheduled(agent.learning_rate))
    assert agent.optimizer.param_groups[1]["lr"] == 5e-3
