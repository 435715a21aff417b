"""Proximal policy optimisation (Schulman et al. 2017): several steps on one rollout, each kept
close to the policy that acted by a clip, a KL penalty, or both."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from agents import distributed
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
from agents.training.metrics import mean_metrics
from agents.training.optimization import actor_and_critic


class PPO(Agent):
    """Maximise min(r·A, clip(r, 1−ε, 1+ε)·A) − β·KL, r = π(a|s) / π_old(a|s).

    Args:
        policy, env: as in `agents.Agent`, which also explains the remaining arguments.
        learning_rate: the learning rate of AdamW.
        batch_size: rows per optimiser step, which are episodes of text, or single steps of anything
            else; None takes the whole rollout.
        n_epochs: passes over each rollout.
        gamma: discount; 1 for text, where only the end is scored.
        gae_lambda: λ of GAE; 0 uses the critic, 1 the returns.
        clip_range: ε, a number or a function of the remaining progress; None does not clip.
        clip_range_vf: clip the values to at most this distance from the old ones, in units of the
            return; None does not clip.
        dual_clip: c > 1 bounds the loss of a bad action that became likely (Ye et al. 2020).
        kl_loss_coef: β of the penalty on the KL between π_old and π; 0 means no penalty.
        kl_loss_target: adapt β so that the KL of an update, nats per step, stays near this target
            (Schulman et al. 2017, section 4); None keeps β constant.
        reverse_kl: penalise KL(π‖π_old) instead of KL(π_old‖π).
        normalize_advantage: scale to mean 0 and standard deviation 1, over the counted steps.
        vf_coef: weight of the critic's loss.
        vf_learning_rate: of the parameters that only the critic has, which learn a regression with
            less noise than the policy has; None uses ``learning_rate``.
        ent_coef: weight of the entropy bonus.
        target_kl: stop the epochs of a rollout once KL(π_old‖π), nats per step, exceeds 1.5 times
            this; None never stops them.
    """

    persistent_state = ("kl_loss_coef",)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float | Schedule = AUTO,
        batch_size: int | None = AUTO,
        n_epochs: int = AUTO,
        gamma: float = AUTO,
        gae_lambda: float = AUTO,
        clip_range: float | Schedule | None = 0.2,
        clip_range_vf: float | None = None,
        dual_clip: float | None = None,
        kl_loss_coef: float = 0.0,
        kl_loss_target: float | None = None,
        reverse_kl: bool = False,
        normalize_advantage: bool = True,
        vf_coef: float = AUTO,
        vf_learning_rate: float | None = AUTO,
        ent_coef: float = 0.0,
        target_kl: float | None = None,
        **common: Unpack[Options],
    ):
        if kl_loss_target is not None and not kl_loss_coef > 0:
            raise ValueError(
                f"kl_loss_target={kl_loss_target} adapts kl_loss_coef by factors, which leaves "
                f"kl_loss_coef={kl_loss_coef} at 0: begin with one above 0."
            )
        self.vf_learning_rate = vf_learning_rate
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.batch_size, self.n_epochs = batch_size, n_epochs
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.clip_range, self.clip_range_vf = clip_range, clip_range_vf
        self.dual_clip = dual_clip
        self.kl_loss_coef, self.kl_loss_target = kl_loss_coef, kl_loss_target
        self.reverse_kl, self.normalize_advantage = reverse_kl, normalize_advantage
        self.vf_coef, self.ent_coef, self.target_kl = vf_coef, ent_coef, target_kl

    def trained_parameters(self) -> list[Any]:
        return actor_and_critic(self.policy, self.vf_learning_rate)

    def update(self, rollout: Rollout) -> dict[str, float]:
        columns = estimated_advantages(
            rollout, self.gamma, self.gae_lambda, self.normalize_advantage
        )
        metrics: list[dict[str, float]] = []
        for _ in range(self.n_epochs):
            for batch in rollout.batches(
                self.batch_size, self.generator, self.group_size, **columns
            ):
                metrics.append(self.optimizer_step(batch))
            if self.target_kl is not None and metrics[-1]["approx_kl"] > 1.5 * self.target_kl:
                break
        means = mean_metrics(metrics) | critic_metrics(rollout, columns)
        if self.kl_loss_target is None:
            return means
        kl = self.kl_to_old_policy(rollout)
        self.kl_loss_coef = surrogates.adaptive_penalty(self.kl_loss_coef, kl, self.kl_loss_target)
        return means | {"kl_after": kl, "kl_loss_coef": self.kl_loss_coef}

    @torch.no_grad()
    def kl_to_old_policy(self, rollout: Rollout) -> float:
        """KL(π_old‖π), nats per step, after the last optimiser step."""
        whole, kl = rollout.batch().of_all(), 0.0
        for part in whole.micro_batches(self.micro_batch_size or self.batch_size):
            now = self.policy.evaluate(part.observations, part.actions, part.mask)
            kl += float(ratio_metrics(now.log_probs, part, None)["approx_kl"])
        return distributed.all_reduce([kl])[0]

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        now = self.policy.evaluate(
            batch.observations, batch.actions, batch.mask, entropy=self.ent_coef > 0
        )
        clip_range = None if self.clip_range is None else self.scheduled(self.clip_range)
        losses = self.surrogate(now.log_probs, batch.old_log_probs, batch.advantages, clip_range)
        if self.kl_loss_coef > 0:
            divergence = surrogates.kl_new_old if self.reverse_kl else surrogates.kl_old_new
            losses = losses + self.kl_loss_coef * divergence(now.log_probs, batch.old_log_probs)
        policy_loss = token_mean(losses, batch.mask, batch.counts)
        other_loss, metrics = value_and_entropy_loss(
            now.values, now.entropy, batch, self.vf_coef, self.ent_coef, self.clip_range_vf
        )
        metrics |= ratio_metrics(now.log_probs, batch, clip_range)
        return policy_loss + other_loss, {"policy_loss": policy_loss.detach(), **metrics}

    def surrogate(
        self, log_probs: Tensor, old: Tensor, advantages: Tensor, clip_range: float | None
    ) -> Tensor:
        """The policy's loss per step ``[B, T]``, without penalty."""
        if clip_range is None:
            return surrogates.importance_weighted(log_probs, old, advantages)
        if self.dual_clip is None:
            return surrogates.clipped(log_probs, old, advantages, clip_range)
        return surrogates.dual_clipped(log_probs, old, advantages, clip_range, self.dual_clip)
