"""A policy of one's own that keeps the contract, and an algorithm of one's own."""

from __future__ import annotations

from dataclasses import field

import numpy as np
import pytest
import torch
from gymnasium.spaces import flatdim
from torch import nn
from torch.distributions import Categorical
from torch.testing import assert_close

import agents.algorithms
from agents import REINFORCE, Policy
from agents.agent import Agent
from agents.evaluation import evaluate_returns
from agents.functional import surrogates
from agents.policies.base import Evaluation
from agents.policies.distributions import TorchDistribution, draw

WITHOUT_DEFAULT = (
    "act", "evaluate", "evaluate_values", "predict_values", "actor_parameters", "critic_parameters",
    "is_batched",
)  # fmt: skip


class Linear(nn.Module, Policy):
    """π and V as linear functions of the observation: no more than the contract asks for."""

    def __init__(self, observation_space, action_space, *, scale: float = 1.0, device="cpu"):
        super().__init__()
        size = flatdim(observation_space)
        self.device, self.generator, self.scale = torch.device(device), torch.Generator(), scale
        self.actor = nn.utils.skip_init(nn.Linear, size, int(action_space.n))
        self.critic = nn.utils.skip_init(nn.Linear, size, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def act(self, observation, state=None, episode_start=None, deterministic=False):
        features = torch.as_tensor(observation).float()
        with torch.no_grad():
            log_probs = self.actor(self.scale * features).log_softmax(-1)
            values = self.critic(features)[:, 0]
        actions = log_probs.argmax(-1) if deterministic else draw(log_probs, self.generator)
        return actions, log_probs.gather(1, actions[:, None])[:, 0], values, None

    def evaluate(self, batch, entropy=False):
        logits = self.actor(self.scale * batch.observations)
        distribution = TorchDistribution(Categorical(logits=logits))
        log_probs, entropies = distribution.log_probs(batch.actions, entropy)
        return Evaluation(log_probs, self.evaluate_values(batch), entropies, distribution)

    def evaluate_values(self, batch):
        return self.critic(batch.observations)[..., 0]

    @torch.no_grad()
    def predict_values(self, observation):
        return self.critic(torch.as_tensor(observation).float())[:, 0]

    def actor_parameters(self):
        return list(self.actor.parameters())

    def critic_parameters(self):
        return list(self.critic.parameters())

    def is_batched(self, observation):
        return np.ndim(observation) > 1


class CentredReturns(Agent):
    """REINFORCE with the highest return so far as its baseline, times a hyper-parameter."""

    optimism: float = 0.5
    "The factor."
    gamma = 0.9
    highest: float = field(default=0.0, init=False)

    def update(self, rollout):
        returns = rollout.returns_to_go(self.gamma)
        self.highest = max(self.highest, returns.max().item())
        return self.optimize(rollout, advantages=returns - self.optimism * self.highest)

    def loss(self, batch):
        losses = surrogates.score_function(self.evaluate(batch).log_probs, batch.advantages)
        return batch.mean("policy_loss", losses)


def same_update(one, other, weights) -> None:
    """Both agents collect the same rollout, and make the same step on it."""
    for agent in (one, other):
        agent.collector.seed, agent.collector.observation = 5, None
    rollouts = [agent.collect() for agent in (one, other)]
    assert_close(rollouts[1].actions, rollouts[0].actions)
    assert one.update(rollouts[0]) == other.update(rollouts[1])
    assert_close(weights(one), weights(other), rtol=0, atol=0)


# A policy of one's own


def test_a_policy_of_ones_own_learns_is_saved_and_goes_on(
    ungrouped, on_cartpole, weights, fitting, tmp_path
):
    few = fitting(ungrouped.__name__, n_epochs=4, n_critic_updates=2)
    settings = {"policy_kwargs": {"scale": 2.0}, "n_envs": 4, "n_steps": 128, **few}
    agent = on_cartpole(ungrouped, policy=Linear, learning_rate=0.01, **settings)
    assert isinstance(agent.policy, Linear) and agent.policy.scale == 2.0
    before = evaluate_returns(agent, agent.env, 8).mean()
    agent.learn(128 * 4 * 8).save(tmp_path)
    assert evaluate_returns(agent, agent.env, 8).mean() > before + 10
    with pytest.raises(ValueError, match=r"custom class, Linear: name it, .*policy=Linear\)"):
        ungrouped.load(tmp_path)
    again = ungrouped.load(tmp_path, policy=Linear, device="cpu")
    assert again.policy.scale == 2.0 and again.env.num_envs == 4
    assert_close(weights(again), weights(agent), rtol=0, atol=0)
    agent.progress_remaining = again.progress_remaining = 1.0
    same_update(agent, again, weights)
    again.learn(100)


@pytest.mark.parametrize("member", WITHOUT_DEFAULT)
def test_a_policy_that_lacks_a_member_is_refused_by_its_name(member, on_cartpole):
    lacking = type("Lacking", (Linear,), {member: getattr(Policy, member)})
    with pytest.raises(TypeError, match=rf"Lacking is no policy: it lacks {member}\. "):
        on_cartpole(REINFORCE, policy=lacking)


def test_all_that_a_policy_lacks_is_named_at_once(on_cartpole):
    class Nothing(nn.Module):
        sequential = False

        def __init__(self, observation_space, action_space, *, device="cpu"):
            super().__init__()

    with pytest.raises(TypeError, match=r"Nothing is no policy: it lacks act, actor_") as refusal:
        on_cartpole(REINFORCE, policy=Nothing)
    for member in WITHOUT_DEFAULT:
        assert member in str(refusal.value)


def test_attributes_that_an_object_lacks_are_named(on_cartpole):
    class WithoutGenerator(Linear):
        def __init__(self, *spaces, device="cpu"):
            super().__init__(*spaces, device=device)
            del self.generator

    with pytest.raises(TypeError, match=r"WithoutGenerator is no policy: it lacks generator\. "):
        on_cartpole(REINFORCE, policy=WithoutGenerator)


# An algorithm of one's own


@pytest.mark.parametrize("policy", ["MlpPolicy", Linear])
def test_an_algorithm_of_ones_own_is_saved_and_goes_on(policy, on_cartpole, weights, tmp_path):
    agent = on_cartpole(CentredReturns, policy=policy, optimism=0.25, n_steps=64, n_envs=4)
    agent.learn(600).save(tmp_path)
    assert agent.highest > 0
    named = {} if isinstance(policy, str) else {"policy": policy}
    again = CentredReturns.load(tmp_path, device="cpu", **named)
    assert (again.optimism, again.gamma, again.highest) == (0.25, 0.9, agent.highest)
    same_update(agent, again, weights)
    again.learn(100)
    with pytest.raises(ValueError, match=r"holds a CentredReturns, not a PPO"):
        agents.algorithms.PPO.load(tmp_path, **named)


def test_an_algorithm_of_ones_own_writes_text_in_micro_batches(make_text_envs, make_model, weights):
    runs = []
    for size in (None, 3):
        agent = CentredReturns(
            "CausalLMPolicy", make_text_envs(8), policy_kwargs={"model": make_model()}, seed=0,
            device="cpu", micro_batch_size=size, optimism=1.0,
        )  # fmt: skip
        agent.update(agent.collect())
        runs.append(weights(agent))
    assert_close(runs[1], runs[0], rtol=1e-3, atol=2e-5)
