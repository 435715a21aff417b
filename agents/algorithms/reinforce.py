"""REINFORCE (Williams 1992): ∇J = E[Σ_t ∇log π(a_t|s_t) · Ψ_t], Ψ_t = R(τ) − b or G_t − b."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

from torch import Tensor

from agents import distributed
from agents.agent import Agent, Schedule
from agents.algorithms.terms import (
    Metrics,
    ratio_metrics,
    reference_log_probs,
    whole_returns,
)
from agents.experience.rollout import Batch, Rollout
from agents.functional import advantages as psi
from agents.functional import surrogates
from agents.functional.reductions import sequence_sum
from agents.training.hyperparameters import AUTO, Options


class REINFORCE(Agent):
    """Make actions more likely in proportion to the return that followed them.

    Args:
        policy, env: as in `agents.Agent`, which also explains the remaining arguments.
        learning_rate: the learning rate of AdamW.
        gamma: discount; 1 for text, where only the end is scored.
        return_to_go: Ψ_t = G_t, the return from step t on, instead of the whole episode's R(τ).
            Rewards before t do not depend on a_t; leaving them out lowers the variance.
        baseline_momentum: m of the moving average b ← m·b + (1−m)·mean return that is subtracted
            from the returns. The first rollout uses b = 0, and its mean is the first b. None
            subtracts nothing.
        normalize_advantage: divide Ψ by its standard deviation over the rollout, so that the size
            of a step does not depend on the scale of the reward.
        kl_loss_coef: β of a penalty β·KL(π‖π_ref) in the loss, to the environment's reference.
    """

    persistent_state = ("baseline",)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float | Schedule = AUTO,
        gamma: float = AUTO,
        return_to_go: bool = True,
        baseline_momentum: float | None = 0.9,
        normalize_advantage: bool = True,
        kl_loss_coef: float = 0.0,
        **common: Unpack[Options],
    ):
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.gamma, self.return_to_go = gamma, return_to_go
        self.baseline_momentum, self.normalize_advantage = baseline_momentum, normalize_advantage
        self.kl_loss_coef = kl_loss_coef
        self.baseline: float | None = None

    @property
    def takes_one_step(self) -> bool:
        return True

    def update(self, rollout: Rollout) -> dict[str, float]:
        # Without a critic there is nothing to bootstrap from: steps of an episode whose end is not
        # in the rollout have no return yet, and are left out.
        rollout = replace(rollout, mask=rollout.mask & rollout.completed)
        if not any(distributed.all_gather(rollout.num_steps)):
            raise ValueError(
                f"No episode ended within the {rollout.mask.shape[1]} steps of a rollout, so there "
                "is no return to learn from: raise n_steps."
            )
        if self.return_to_go:
            returns = psi.discounted_returns(
                rollout.rewards, rollout.episode_end, self.gamma, mask=rollout.mask
            )
        else:
            returns = whole_returns(rollout, self.gamma)
        advantages = returns - self.next_baseline(distributed.mean(returns[rollout.mask]))
        if self.normalize_advantage:
            of_all = distributed.gather(advantages[rollout.mask])
            advantages = psi.scaled(advantages, rollout.mask, population=of_all)
        return self.optimize(rollout, {"advantages": advantages})

    def next_baseline(self, mean_return: float) -> float:
        """The b before this rollout; the rollout's mean then updates it."""
        if self.baseline_momentum is None:
            return 0.0
        before = self.baseline
        self.baseline = (
            mean_return
            if before is None
            else psi.moving_average_baseline(before, mean_return, self.baseline_momentum)
        )
        return 0.0 if before is None else before

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        log_probs = self.policy.evaluate(batch.observations, batch.actions, batch.mask).log_probs
        losses = surrogates.score_function(log_probs, batch.advantages)
        if self.kl_loss_coef > 0:
            kl = surrogates.importance_weighted_kl(
                log_probs, batch.old(log_probs), reference_log_probs(batch)
            )
            losses = losses + self.kl_loss_coef * kl
        loss = sequence_sum(losses, batch.mask, batch.counts)
        return loss, {"policy_loss": loss.detach(), **ratio_metrics(log_probs, batch, None)}
