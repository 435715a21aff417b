"""REINFORCE (Williams 1992): ∇J = E[Σ_t ∇log π(a_t|s_t) · Ψ_t], Ψ_t = R(τ) − b or G_t − b."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from agents.agent import Agent
from agents.functional import advantages as psi
from agents.functional import surrogates
from agents.functional.reductions import sequence_sum
from agents.rollout import Batch, Rollout
from agents.terms import Metrics, reduced, reference_log_probs, whole_returns


class REINFORCE(Agent):
    """Make actions likelier by the return that followed them.

    Args:
        policy, env: as in `agents.Agent`, where the remaining arguments are explained as well.
        learning_rate: of AdamW.
        gamma: discount; 1 for text, where only the end is scored.
        return_to_go: Ψ_t = G_t, the return from step t on, instead of the whole episode's R(τ).
            Rewards before t do not depend on a_t; leaving them out lowers the variance.
        baseline_momentum: m of the moving average b ← m·b + (1−m)·mean return that is subtracted
            from the returns; None subtracts nothing.
        normalize_advantage: divide Ψ by its standard deviation over the rollout, which keeps the
            size of a step apart from the scale of the reward.
        kl_penalty: β of a penalty β·KL(π‖π_ref) in the loss, to the environment's reference.
        penalize_old: penalise KL(π‖π_old) to the policy that acted instead, which matters once a
            rollout takes several steps (``batch_size``).
    """

    learned = ("baseline",)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float = 1e-5,
        gamma: float = 1.0,
        return_to_go: bool = True,
        baseline_momentum: float | None = 0.9,
        normalize_advantage: bool = True,
        kl_penalty: float = 0.0,
        penalize_old: bool = False,
        **common: Any,
    ):
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.gamma, self.return_to_go = gamma, return_to_go
        self.baseline_momentum, self.normalize_advantage = baseline_momentum, normalize_advantage
        self.kl_penalty, self.penalize_old = kl_penalty, penalize_old
        self.baseline: float | None = None

    def update(self, rollout: Rollout) -> dict[str, float]:
        # Without a critic there is nothing to bootstrap from: steps of an episode whose end is not
        # in the rollout have no return yet, and are left out.
        rollout = replace(rollout, mask=rollout.mask & rollout.completed)
        if not rollout.mask.any():
            raise ValueError(
                f"No episode ended within the {rollout.mask.shape[1]} steps of a rollout, so there "
                "is no return to learn from: raise n_steps."
            )
        if self.return_to_go:
            returns = psi.discounted_returns(
                rollout.rewards, rollout.ended, self.gamma, mask=rollout.mask
            )
        else:
            returns = whole_returns(rollout)
        advantages = returns - self.subtracted(returns[rollout.mask].mean().item())
        if self.normalize_advantage:
            advantages = psi.scaled(advantages, rollout.mask)
        return self.descend_all(rollout, {"advantages": advantages})

    def subtracted(self, mean_return: float) -> float:
        """b as it stood before this rollout; the rollout's mean then moves it."""
        if self.baseline_momentum is None:
            return 0.0
        before = mean_return if self.baseline is None else self.baseline
        self.baseline = psi.moving_average_baseline(before, mean_return, self.baseline_momentum)
        return before

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        log_probs = self.policy.evaluate(batch.observations, batch.actions, batch.mask).log_probs
        losses = surrogates.score_function(log_probs, batch.advantages)
        if self.kl_penalty > 0:
            anchor = batch.log_probs if self.penalize_old else reference_log_probs(batch)
            kl = surrogates.importance_weighted_kl(log_probs, batch.log_probs, anchor)
            losses = losses + self.kl_penalty * kl
        loss = reduced(losses, batch, sequence_sum)
        return loss, {"policy_loss": loss.detach()}
