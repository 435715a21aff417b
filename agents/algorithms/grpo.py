"""GRPO (Shao et al. 2024): PPO's clipped ratio without a critic. Each answer is compared with the
others of its group, and a KL to the reference in the loss keeps the policy close to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from torch import Tensor

from agents.agent import Agent, Schedule
from agents.algorithms.terms import Metrics, group_advantages, ratio_metrics, reference_log_probs
from agents.experience.rollout import Batch, Rollout
from agents.functional import surrogates
from agents.functional.advantages import group_relative
from agents.functional.reductions import sequence_mean
from agents.training.hyperparameters import AUTO, Options
from textenv.kl.estimators import k3


class GRPO(Agent):
    """Maximise the clipped ratio times the group-relative advantage, minus β·KL to the reference.

    Dr. GRPO (Liu et al. 2025) is ``advantage_fn=advantages.group_centered`` with
    ``reduction=partial(reductions.constant_length, length=max_new_tokens)``; DAPO (Yu et al. 2025)
    is ``reduction=reductions.token_mean`` with ``clip_range_high=0.28``. A row of the rollout has
    to be one episode, as it is for text.

    Args:
        policy, env: as in `agents.Agent`, which also explains the remaining arguments.
        learning_rate: the learning rate of AdamW.
        batch_size: episodes per optimiser step; None takes the whole rollout.
        n_epochs: passes over each rollout.
        group_size: G, the number of consecutive rows that begin with the same prompt.
        clip_range: ε for ratios below 1, and above 1 too unless ``clip_range_high`` is given.
        clip_range_high: ε for ratios above 1.
        kl_loss_coef: β of KL(π‖π_ref) in the loss (0.04 in the paper); it needs the environment's
            reference, whose ``kl_coef`` should then be 0.
        unbiased_kl: weight k3 by the ratio, which gives it the gradient of KL(π‖π_ref); plain k3,
            as in the paper, has that of KL(π_ref‖π).
        advantage_fn: advantages from N returns and G, as in `agents.functional.advantages`.
        reduction: one number from the losses per step, as in `agents.functional.reductions`.
    """

    compares_groups = True

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float | Schedule = AUTO,
        batch_size: int | None = AUTO,
        n_epochs: int = 1,
        group_size: int = 8,
        clip_range: float = 0.2,
        clip_range_high: float | None = None,
        kl_loss_coef: float = 0.0,
        unbiased_kl: bool = False,
        advantage_fn: Callable[[Tensor, int], Tensor] = group_relative,
        reduction: Callable[..., Tensor] = sequence_mean,
        **common: Unpack[Options],
    ):
        super().__init__(policy, env, learning_rate=learning_rate, group_size=group_size, **common)
        self.batch_size, self.n_epochs = batch_size, n_epochs
        self.clip_range, self.clip_range_high = clip_range, clip_range_high
        self.kl_loss_coef, self.unbiased_kl = kl_loss_coef, unbiased_kl
        self.advantage_fn, self.reduction = advantage_fn, reduction

    @property
    def takes_one_step(self) -> bool:
        return self.n_epochs == 1 and self.batch_size is None

    def update(self, rollout: Rollout) -> dict[str, float]:
        columns = group_advantages(rollout, self.advantage_fn, self.group_size)
        return self.optimize(rollout, columns, self.n_epochs, self.batch_size)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        log_probs = self.policy.evaluate(batch.observations, batch.actions, batch.mask).log_probs
        old = batch.old(log_probs)
        losses = surrogates.clipped(
            log_probs, old, batch.advantages, self.clip_range, self.clip_range_high
        )
        if self.kl_loss_coef > 0:
            reference = reference_log_probs(batch)
            if self.unbiased_kl:
                kl = surrogates.importance_weighted_kl(log_probs, old, reference)
            else:
                kl = k3(log_probs, reference)
            losses = losses + self.kl_loss_coef * kl
        loss = self.reduction(losses, batch.mask, batch.counts)
        metrics = ratio_metrics(log_probs, batch, self.clip_range, self.clip_range_high)
        return loss, {"policy_loss": loss.detach(), **metrics}
