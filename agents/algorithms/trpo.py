"""Trust region policy optimisation (Schulman et al. 2015): the largest improvement of the surrogate
within KL(π_old‖π) ≤ δ, by a natural-gradient step and a line search."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from agents.agent import Agent
from agents.functional import natural_gradient as natural
from agents.functional import surrogates
from agents.functional.reductions import token_mean
from agents.rollout import Batch, Rollout
from agents.terms import critic_terms, estimated_advantages


class TRPO(Agent):
    """Maximise E[r·A] subject to mean KL(π_old‖π) ≤ δ.

    The KL is the exact one, over all actions. The critic is fitted by itself afterwards, by its own
    parameters only, so that nothing but the accepted step moves the policy.

    Args:
        policy, env: as in `agents.Agent`, where the remaining arguments are explained as well. A
            language model has to be loaded with ``attn_implementation="eager"``, for second
            derivatives, and in float32.
        learning_rate: of AdamW, for the critic alone.
        n_critic_updates: passes over each rollout that fit the critic.
        gamma: discount; 1 for text, where only the end is scored.
        gae_lambda: λ of GAE; 0 trusts the critic, 1 the returns.
        target_kl: δ, nats per step.
        cg_max_steps: iterations of conjugate gradient.
        cg_damping: added to the Fisher matrix's diagonal.
        fisher_rows: rows that the Fisher matrix is estimated from; None takes all. Second
            derivatives take several times the memory of first ones.
        line_search_shrinking_factor: of the step, at each try.
        line_search_max_iter: tries.
        normalize_advantage: over the rollout's counted steps, to mean 0 and deviation 1.
    """

    policy_needs: ClassVar[dict[str, Any]] = {"attn_implementation": "eager", "dtype": "float32"}

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float = 1e-3,
        n_critic_updates: int = 10,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        target_kl: float = 0.01,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        fisher_rows: int | None = None,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        normalize_advantage: bool = True,
        **common: Any,
    ):
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.n_critic_updates, self.gamma, self.gae_lambda = n_critic_updates, gamma, gae_lambda
        self.target_kl, self.cg_max_steps, self.cg_damping = target_kl, cg_max_steps, cg_damping
        self.fisher_rows = fisher_rows
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.normalize_advantage = normalize_advantage

    def update(self, rollout: Rollout) -> dict[str, float]:
        columns = estimated_advantages(
            rollout, self.gamma, self.gae_lambda, self.normalize_advantage
        )
        metrics = self.trust_region_step(rollout.batch(**columns))
        return metrics | self.descend_all(rollout, columns, self.n_critic_updates)

    def trust_region_step(self, batch: Batch) -> dict[str, float]:
        """Move the policy: x = H⁻¹(−g), scaled to the edge of the region, then drawn back."""
        parameters = self.policy.actor_parameters()
        before = [parameter.detach().clone() for parameter in parameters]

        now = self.policy.evaluate(batch.observations, batch.actions, batch.mask)
        loss = self.surrogate_loss(now.log_probs, batch)
        gradient = natural.flatten(torch.autograd.grad(loss, parameters, materialize_grads=True))
        old_distribution, loss = now.distribution.detach(), loss.item()

        rows = torch.randperm(len(batch), generator=self.generator)[: self.fisher_rows]
        part = batch.take(rows.to(batch.mask.device))
        now = self.policy.evaluate(part.observations, part.actions, part.mask).distribution
        fisher = natural.fisher_operator(
            token_mean(now.detach().kl(now), part.mask), parameters, self.cg_damping
        )
        direction = natural.conjugate_gradient(fisher, -gradient, self.cg_max_steps)
        size = natural.natural_step_size(self.target_kl, direction, fisher(direction))
        step = size * direction
        del fisher, now, part  # the graph of second derivatives is large

        def move(displacement: Tensor) -> None:
            pieces = natural.unflatten(displacement, parameters)
            for parameter, start, piece in zip(parameters, before, pieces, strict=True):
                parameter.data.copy_(start + piece)

        def evaluate(displacement: Tensor) -> tuple[float, float]:
            move(displacement)
            now = self.policy.evaluate(batch.observations, batch.actions, batch.mask)
            kl = token_mean(old_distribution.kl(now.distribution), batch.mask)
            return self.surrogate_loss(now.log_probs, batch).item(), kl.item()

        fraction = natural.line_search(
            evaluate, step, loss, self.target_kl,
            self.line_search_shrinking_factor, self.line_search_max_iter,
        )  # fmt: skip
        with torch.no_grad():
            new_loss, kl = evaluate(fraction * step)
        return {
            "policy_objective": -new_loss,
            "improvement": loss - new_loss,
            "kl": kl,
            "step_fraction": fraction,
        }

    @staticmethod
    def surrogate_loss(log_probs: Tensor, batch: Batch) -> Tensor:
        """−E[r·A]."""
        losses = surrogates.importance_weighted(log_probs, batch.log_probs, batch.advantages)
        return token_mean(losses, batch.mask)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """The critic's, which `descend` minimises by the critic's own parameters."""
        now = self.policy.evaluate(batch.observations, batch.actions, batch.mask)
        return critic_terms(now.values, None, batch, 1.0, 0.0)

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        return self.policy.critic_parameters()
