"""Actor-critic (A2C, Mnih et al. 2016): REINFORCE whose baseline is a learned V(s_t)."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from agents.agent import Agent, Schedule
from agents.algorithms.terms import (
    Metrics,
    critic_metrics,
    estimated_advantages,
    ratio_metrics,
    value_and_entropy_loss,
)
from agents.experience.rollout import Batch, Rollout
from agents.functional import surrogates
from agents.functional.reductions import token_mean
from agents.training.hyperparameters import AUTO, Options
from agents.training.optimization import actor_and_critic


class ActorCritic(Agent):
    """Make actions more likely by how much better they were than the critic expected.

    Args:
        policy, env: as in `agents.Agent`, which also explains the remaining arguments.
        learning_rate: the learning rate of AdamW.
        gamma: discount; 1 for text, where only the end is scored.
        gae_lambda: λ of GAE; 0 uses the critic, 1 the returns.
        normalize_advantage: scale to mean 0 and standard deviation 1, over the counted steps.
        vf_coef: weight of the critic's loss.
        vf_learning_rate: of the parameters that only the critic has, which learn a regression with
            less noise than the policy has; None uses ``learning_rate``.
        ent_coef: weight of the entropy bonus.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float | Schedule = AUTO,
        gamma: float = AUTO,
        gae_lambda: float = AUTO,
        normalize_advantage: bool = AUTO,
        vf_coef: float = AUTO,
        vf_learning_rate: float | None = AUTO,
        ent_coef: float = 0.0,
        **common: Unpack[Options],
    ):
        self.vf_learning_rate = vf_learning_rate
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.normalize_advantage = normalize_advantage
        self.vf_coef, self.ent_coef = vf_coef, ent_coef

    def trained_parameters(self) -> list[Any]:
        return actor_and_critic(self.policy, self.vf_learning_rate)

    @property
    def takes_one_step(self) -> bool:
        return True

    def update(self, rollout: Rollout) -> dict[str, float]:
        columns = estimated_advantages(
            rollout, self.gamma, self.gae_lambda, self.normalize_advantage
        )
        return self.optimize(rollout, columns) | critic_metrics(rollout, columns)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        now = self.policy.evaluate(
            batch.observations, batch.actions, batch.mask, entropy=self.ent_coef > 0
        )
        losses = surrogates.score_function(now.log_probs, batch.advantages)
        policy_loss = token_mean(losses, batch.mask, batch.counts)
        other_loss, metrics = value_and_entropy_loss(
            now.values, now.entropy, batch, self.vf_coef, self.ent_coef
        )
        metrics |= ratio_metrics(now.log_probs, batch, None)
        return policy_loss + other_loss, {"policy_loss": policy_loss.detach(), **metrics}
