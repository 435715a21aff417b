"""Proximal policy optimisation (Schulman et al. 2017): several steps on one rollout, each kept
close to the policy that acted by a clip, a KL penalty, or both."""

from typing import Annotated

from torch import Tensor

from agents.algorithms.critic import EstimatesAdvantages, LearnsValues
from agents.algorithms.minibatches import TakesSeveralSteps
from agents.experience.rollout import Batch, Rollout
from agents.functional import surrogates
from agents.training.hyperparameters import Schedule
from textenv.arguments import Range


class PPO(EstimatesAdvantages, LearnsValues, TakesSeveralSteps):
    """Maximise min(r·A, clip(r, 1−ε, 1+ε)·A) − β·KL, r = π(a|s) / π_old(a|s)."""

    clip_range: Annotated[float | Schedule | None, Range(above=0)] = 0.2
    "ε, a number or a function of the remaining progress; None does not clip."
    clip_range_vf: Annotated[float | None, Range(above=0)] = None
    """Clip the values to at most this distance from the old ones, in units of the return; None
    does not clip."""
    dual_clip: Annotated[float | None, Range(above=1)] = None
    "c > 1 bounds the loss of a bad action that became likely (Ye et al. 2020)."
    kl_loss_coef: Annotated[float, Range(0)] = 0.0
    "β of the penalty on the KL between π_old and π; 0 means no penalty."
    kl_loss_target: Annotated[float | None, Range(above=0)] = None
    """Adapt β so that the KL of an update, nats per step, stays near this target (Schulman et al.
    2017, section 4); None keeps β constant."""
    reverse_kl: bool = False
    "Penalise KL(π‖π_old) instead of KL(π_old‖π)."
    normalize_advantage = True
    target_kl: Annotated[float | None, Range(above=0)] = None
    """Take no more steps on a rollout once KL(π_old‖π), nats per step, exceeds 1.5 times this; None
    takes them all."""

    def update(self, rollout: Rollout) -> dict[str, float]:
        advantages, returns = self.estimated_advantages(rollout)
        metrics = self.optimize(
            rollout, self.n_epochs, self.batch_size, self.too_far,
            advantages=advantages, returns=returns,
        )  # fmt: skip
        if self.kl_loss_target is None:
            return metrics
        kl = self.kl_to_old_policy(rollout)
        self.kl_loss_coef = surrogates.adaptive_penalty(self.kl_loss_coef, kl, self.kl_loss_target)
        return metrics | {"kl_after": kl, "kl_loss_coef": self.kl_loss_coef}

    def too_far(self, metrics: dict[str, float]) -> bool:
        return self.target_kl is not None and metrics["approx_kl"] > 1.5 * self.target_kl

    def loss(self, batch: Batch) -> Tensor:
        now = self.evaluate(batch, entropy=self.ent_coef > 0)
        losses = self.surrogate(now.log_probs, batch.old_log_probs, batch.advantages)
        if self.kl_loss_coef > 0:
            divergence = surrogates.kl_new_old if self.reverse_kl else surrogates.kl_old_new
            losses = losses + self.kl_loss_coef * divergence(now.log_probs, batch.old_log_probs)
        policy_loss = batch.mean("policy_loss", losses)
        return policy_loss + self.value_and_entropy_loss(now, batch, self.clip_range_vf)

    def surrogate(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
        """The policy's loss per step ``[B, T]``, without penalty."""
        if self.clip_range is None:
            return surrogates.importance_weighted(log_probs, old_log_probs, advantages)
        epsilon = self.scheduled(self.clip_range)
        if self.dual_clip is None:
            return surrogates.clipped(log_probs, old_log_probs, advantages, epsilon)
        return surrogates.dual_clipped(
            log_probs, old_log_probs, advantages, epsilon, self.dual_clip
        )

    def check(self) -> None:
        super().check()
        if self.kl_loss_target is not None and not self.kl_loss_coef > 0:
            raise ValueError(
                f"kl_loss_target={self.kl_loss_target} adapts kl_loss_coef by factors, which "
                f"leaves kl_loss_coef={self.kl_loss_coef} at 0: begin with one above 0."
            )
        if self.dual_clip is not None and self.clip_range is None:
            raise ValueError(
                f"dual_clip={self.dual_clip} limits the clipped loss further, so it needs a "
                "clip_range."
            )
