"""GRPO (Shao et al. 2024): PPO's clipped ratio without a critic. Each answer is compared with the
others of its group, and a KL to the reference in the loss keeps the policy close to it."""

from collections.abc import Callable
from typing import Annotated

from torch import Tensor

from agents.algorithms.minibatches import TakesSeveralSteps
from agents.experience.rollout import Batch, Rollout
from agents.functional import surrogates
from agents.functional.advantages import group_relative
from agents.functional.reductions import sequence_mean
from textenv.arguments import Range
from textenv.kl.estimators import k3


class GRPO(TakesSeveralSteps):
    """Maximise the clipped ratio times the group-relative advantage, minus β·KL to the reference.

    Dr. GRPO (Liu et al. 2025) is ``advantage_fn=advantages.group_centered`` with
    ``reduction=partial(reductions.constant_length, length=max_new_tokens)``; DAPO (Yu et al. 2025)
    is ``reduction=reductions.token_mean`` with ``clip_range_high=0.28``. A row of the rollout has
    to be one episode, as it is for text.
    """

    n_epochs = 1
    group_size = 8
    clip_range: Annotated[float, Range(above=0)] = 0.2
    "ε for ratios below 1, and above 1 too unless ``clip_range_high`` is given."
    clip_range_high: Annotated[float | None, Range(above=0)] = None
    "ε for ratios above 1."
    kl_loss_coef: Annotated[float, Range(0)] = 0.0
    """β of KL(π‖π_ref) in the loss (0.04 in the paper); it needs the environment's reference, whose
    ``kl_coef`` should then be 0."""
    unbiased_kl: bool = False
    """Weight k3 by the ratio, which gives it the gradient of KL(π‖π_ref); plain k3, as in the
    paper, has that of KL(π_ref‖π)."""
    advantage_fn: Callable[[Tensor, int], Tensor] = group_relative
    "Advantages from N returns and G, as in `agents.functional.advantages`."
    reduction: Callable[..., Tensor] = sequence_mean
    "One number from the losses per step, as in `agents.functional.reductions`."

    compares_groups = True

    def update(self, rollout: Rollout) -> dict[str, float]:
        advantages = rollout.group_advantages(self.advantage_fn, self.gamma, self.group_size)
        return self.optimize(rollout, self.n_epochs, self.batch_size, advantages=advantages)

    def loss(self, batch: Batch) -> Tensor:
        log_probs = self.evaluate(batch).log_probs
        losses = self.surrogate(log_probs, batch)
        if self.kl_loss_coef > 0:
            losses = losses + self.kl_loss_coef * self.kl_to_reference(log_probs, batch)
        return batch.mean("policy_loss", losses, self.reduction)

    def surrogate(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """The loss of each step ``[B, T]``; GSPO and CISPO have others (`surrogates`)."""
        return surrogates.clipped(
            log_probs, batch.old_log_probs, batch.advantages, self.clip_range, self.clip_range_high
        )

    def kl_to_reference(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """KL(π‖π_ref) of each step ``[B, T]``, nats."""
        if not self.unbiased_kl:
            return k3(log_probs, batch.reference_log_probs)
        return surrogates.importance_weighted_kl(
            log_probs, batch.old_log_probs, batch.reference_log_probs
        )
