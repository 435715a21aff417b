"""REINFORCE (Williams 1992): ∇J = E[Σ_t ∇log π(a_t|s_t) · Ψ_t], Ψ_t = R(τ) − b or G_t − b."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agents.agent import Agent
from agents.functional import advantages as psi
from agents.functional import surrogates
from agents.functional.reductions import sequence_sum
from agents.rollout import Batch, Rollout


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
        normalize_advantage: divide Ψ by its standard deviation over the rollout, after subtracting
            its mean. It keeps the step size apart from the reward's scale, at the price of a small
            bias.
        kl_penalty: β of a penalty β·KL(π‖π_ref) in the loss, to the environment's reference; 0 has
            none. It is the exact gradient's own form of what ``kl_coef`` does in the reward.
    """

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
        **common: Any,
    ):
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.gamma, self.return_to_go = gamma, return_to_go
        self.baseline_momentum, self.normalize_advantage = baseline_momentum, normalize_advantage
        self.kl_penalty = kl_penalty
        self.baseline: float | None = None

    def update(self, rollout: Rollout) -> dict[str, float]:
        if self.return_to_go:
            returns = psi.discounted_returns(
                rollout.rewards, rollout.ended, self.gamma, rollout.next_values, rollout.mask
            )
        else:
            returns = psi.trajectory_return(rollout.rewards, rollout.mask)
        advantages = returns - self.subtracted(returns[rollout.mask].mean().item())
        if self.normalize_advantage:
            advantages = psi.normalize(advantages, rollout.mask)
        return self.descend(rollout.batch(advantages=advantages))

    def subtracted(self, mean_return: float) -> float:
        """b as it stood before this rollout; the rollout's mean then moves it."""
        if self.baseline_momentum is None:
            return 0.0
        before = mean_return if self.baseline is None else self.baseline
        self.baseline = psi.moving_average_baseline(before, mean_return, self.baseline_momentum)
        return before

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        log_probs = self.policy.evaluate(batch.observations, batch.actions, batch.mask).log_probs
        losses = surrogates.score_function(log_probs, batch.advantages)
        loss = sequence_sum(losses, batch.mask, batch.num_rows)
        return loss, {"policy_loss": loss.detach()}
