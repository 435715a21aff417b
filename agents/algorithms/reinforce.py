"""REINFORCE (Williams 1992): ∇J = E[Σ_t ∇log π(a_t|s_t) · Ψ_t], Ψ_t = R(τ) − b or G_t − b."""

from dataclasses import field
from typing import Annotated

from torch import Tensor

from agents.agent import Agent
from agents.experience.rollout import Batch, Rollout
from agents.functional import surrogates
from agents.functional.advantages import moving_average_baseline
from agents.functional.reductions import sequence_sum
from textenv.arguments import Range


class REINFORCE(Agent):
    """Make actions more likely in proportion to the return that followed them."""

    return_to_go: bool = True
    """Ψ_t = G_t, the return from step t on, instead of the whole episode's R(τ). Rewards before t
    do not depend on a_t; leaving them out lowers the variance."""
    baseline_momentum: Annotated[float | None, Range(0, 1)] = 0.9
    """m of the moving average b ← m·b + (1−m)·mean return that is subtracted from the returns. The
    first rollout uses b = 0, and its mean is the first b. None subtracts nothing."""
    normalize_advantage: bool = True
    """Divide Ψ by its standard deviation over the rollout, so that the size of a step does not
    depend on the scale of the reward."""
    kl_loss_coef: Annotated[float, Range(0)] = 0.0
    "β of a penalty β·KL(π‖π_ref) in the loss, to the environment's reference."

    baseline: float | None = field(default=None, init=False)

    def update(self, rollout: Rollout) -> dict[str, float]:
        rollout = rollout.completed()
        returns = (
            rollout.returns_to_go(self.gamma)
            if self.return_to_go
            else rollout.whole_returns(self.gamma)
        )
        advantages = returns - self.next_baseline(rollout.mean(returns))
        if self.normalize_advantage:
            advantages = rollout.scaled(advantages)
        return self.optimize(rollout, advantages=advantages)

    def next_baseline(self, mean_return: float) -> float:
        """The b before this rollout; the rollout's mean then updates it."""
        if self.baseline_momentum is None:
            return 0.0
        before = self.baseline
        self.baseline = (
            mean_return
            if before is None
            else moving_average_baseline(before, mean_return, self.baseline_momentum)
        )
        return 0.0 if before is None else before

    def loss(self, batch: Batch) -> Tensor:
        log_probs = self.evaluate(batch).log_probs
        losses = surrogates.score_function(log_probs, batch.advantages)
        if self.kl_loss_coef > 0:
            losses = losses + self.kl_loss_coef * surrogates.importance_weighted_kl(
                log_probs, batch.old_log_probs, batch.reference_log_probs
            )
        return batch.mean("policy_loss", losses, sequence_sum)
