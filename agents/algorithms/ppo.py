"""Proximal policy optimisation (Schulman et al. 2017): several steps on one rollout, each kept
close to the policy that acted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.agent import Agent, mean_metrics
from agents.functional import advantages as psi
from agents.functional import critic_losses, surrogates
from agents.functional.reductions import token_mean
from agents.rollout import Batch, Rollout


class PPO(Agent):
    """Ascend min(r·A, clip(r, 1−ε, 1+ε)·A), r = π(a|s) / π_old(a|s).

    Args:
        policy, env: as in `agents.Agent`, where the remaining arguments are explained as well.
        learning_rate: of AdamW.
        n_epochs: passes over each rollout.
        gamma: discount; 1 for text, where only the end is scored.
        gae_lambda: λ of GAE; 0 trusts the critic, 1 the returns.
        clip_range: ε, a number or a function of the progress remaining.
        normalize_advantage: over the rollout's counted steps, to mean 0 and deviation 1.
        vf_coef: weight of the critic's loss.
        ent_coef: weight of the entropy bonus.
        target_kl: stop the epochs of a rollout once KL(π_old‖π), nats per step, exceeds 1.5 times
            this; None never stops them.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float = 1e-5,
        n_epochs: int = 4,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        normalize_advantage: bool = True,
        vf_coef: float = 0.1,
        ent_coef: float = 0.0,
        target_kl: float | None = None,
        **common: Any,
    ):
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.n_epochs, self.gamma, self.gae_lambda = n_epochs, gamma, gae_lambda
        self.clip_range, self.normalize_advantage = clip_range, normalize_advantage
        self.vf_coef, self.ent_coef, self.target_kl = vf_coef, ent_coef, target_kl

    def update(self, rollout: Rollout) -> dict[str, float]:
        advantages = psi.generalized_advantages(
            rollout.rewards, rollout.values, rollout.next_values, rollout.ended,
            self.gamma, self.gae_lambda, rollout.mask,
        )  # fmt: skip
        returns = advantages + rollout.values
        if self.normalize_advantage:
            advantages = psi.normalize(advantages, rollout.mask)
        metrics: list[dict[str, float]] = []
        for _ in range(self.n_epochs):
            for batch in rollout.batches(
                self.batch_size, self.generator, advantages=advantages, returns=returns
            ):
                metrics.append(self.descend(batch))
            if self.target_kl is not None and metrics[-1]["approx_kl"] > 1.5 * self.target_kl:
                break
        # Before the first step π is π_old: anything but 0 here is a fault, or rounding.
        return mean_metrics(metrics) | {"first_approx_kl": metrics[0]["approx_kl"]}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        now = self.policy.evaluate(
            batch.observations, batch.actions, batch.mask, entropy=self.ent_coef > 0
        )
        clip_range = self.scheduled(self.clip_range)
        policy_loss = token_mean(
            surrogates.clipped(now.log_probs, batch.log_probs, batch.advantages, clip_range),
            batch.mask,
            batch.num_steps,
        )
        value_loss = token_mean(
            critic_losses.squared_error(now.values, batch.returns), batch.mask, batch.num_steps
        )
        loss = policy_loss + self.vf_coef * value_loss
        with torch.no_grad():
            kl = surrogates.kl_old_new(now.log_probs, batch.log_probs)
            metrics = {
                "policy_loss": policy_loss.detach(),
                "value_loss": value_loss.detach(),
                "approx_kl": token_mean(kl, batch.mask),
                "clip_fraction": surrogates.clip_fraction(
                    now.log_probs, batch.log_probs, batch.mask, clip_range
                ),
            }
        if now.entropy is not None:
            entropy = token_mean(now.entropy, batch.mask, batch.num_steps)
            loss = loss - self.ent_coef * entropy
            metrics["entropy"] = entropy.detach()
        return loss, metrics
