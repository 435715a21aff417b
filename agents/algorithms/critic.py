"""What the algorithms with a critic V(s) have in common, each part once."""

from typing import Annotated, Any

from torch import Tensor

from agents.agent import Agent
from agents.experience.rollout import Batch, Rollout
from agents.functional import critic_losses
from agents.policies.base import Evaluation
from agents.training.hyperparameters import AUTO
from textenv.arguments import Range


class EstimatesAdvantages(Agent):
    """An agent whose Ψ is GAE(γ, λ) (Schulman et al. 2016)."""

    gae_lambda: Annotated[float, Range(0, 1)] = AUTO
    "λ of GAE; 0 uses the critic, 1 the returns."
    normalize_advantage: bool = AUTO
    "Scale the advantages to mean 0 and standard deviation 1, over the counted steps."

    def estimated_advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Advantages, and the critic's targets, the returns; both ``[B, T]``."""
        advantages = rollout.generalized_advantages(self.gamma, self.gae_lambda)
        returns = advantages + rollout.values
        return rollout.normalized(advantages) if self.normalize_advantage else advantages, returns


class LearnsValues(Agent):
    """An agent that learns π and V in one loss."""

    vf_coef: Annotated[float, Range(0)] = AUTO
    "Weight of the critic's loss."
    vf_learning_rate: Annotated[float | None, Range(0)] = AUTO
    """Learning rate of the parameters that only the critic has, which learn a regression with less
    noise than the policy has, and whose Adam epsilon is then 1e-5; None uses ``learning_rate``."""
    ent_coef: Annotated[float, Range(0)] = 0.0
    "Weight of the entropy bonus."

    def trained_parameters(self) -> list[Any]:
        every = super().trained_parameters()
        if self.vf_learning_rate is None:
            return every
        critic = self.policy.critic_parameters()
        own = {id(p) for p in critic}
        others = [p for p in every if id(p) not in own]
        return [{"params": others}, {"params": critic, "lr": self.vf_learning_rate, "eps": 1e-5}]

    def value_and_entropy_loss(
        self, now: Evaluation, batch: Batch, clip_range_vf: float | None = None
    ) -> Tensor:
        """vf_coef · mean (V − R)² − ent_coef · mean entropy, over the counted steps.

        With ``clip_range_vf`` the values are kept near those of the critic that acted.
        """
        if clip_range_vf is None:
            errors = critic_losses.squared_error(now.values, batch.returns)
        else:
            errors = critic_losses.clipped_squared_error(
                now.values, batch.old_values, batch.returns, clip_range_vf
            )
        loss = self.vf_coef * batch.mean("value_loss", errors)
        if now.entropy is not None:
            loss = loss - self.ent_coef * batch.mean("entropy", now.entropy)
        return loss
