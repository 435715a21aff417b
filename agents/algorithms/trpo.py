"""Trust region policy optimisation (Schulman et al. 2015): the largest improvement of the surrogate
within KL(π_old‖π) ≤ δ, by a natural-gradient step and a line search."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.nn import Parameter

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
from agents.functional import natural_gradient as natural
from agents.functional import surrogates
from agents.functional.reductions import token_mean
from agents.training.hyperparameters import AUTO, Options
from agents.training.optimization import numbers

SECOND_DERIVATIVES = 3  # times the memory of first ones


class TRPO(Agent):
    """Maximise E[r·A] subject to mean KL(π_old‖π) ≤ δ.

    The KL is the exact one, over all actions. The critic is fitted separately afterwards, with its
    own parameters only, so that only the accepted step changes the policy.

    Args:
        policy, env: as in `agents.Agent`, which also explains the remaining arguments. A
            language model has to be loaded with ``attn_implementation="eager"``, for second
            derivatives, and in float32.
        learning_rate: the learning rate of AdamW, for the critic only.
        batch_size: rows per optimiser step of the critic; None takes the whole rollout.
        n_critic_updates: passes over each rollout that fit the critic.
        gamma: discount; 1 for text, where only the end is scored.
        gae_lambda: λ of GAE; 0 uses the critic, 1 the returns.
        target_kl: δ, nats per step. With ``lr_schedule`` the length of the step is annealed too: δ
            is multiplied by the square of its factor.
        cg_max_steps: iterations of conjugate gradient.
        cg_damping: λ in (H + λI)x = −g, which is solved for the direction. The length of the step
            uses H itself, ½ xᵀHx = δ.
        fisher_rows: rows that H is estimated from, in all processes; None uses all. Second
            derivatives need several times the memory of first ones.
        line_search_shrinking_factor: factor by which each try shortens the step.
        line_search_max_iter: largest number of tries.
        normalize_advantage: scale to mean 0 and standard deviation 1, over the counted steps.
    """

    policy_needs: ClassVar[dict[str, Any]] = {"attn_implementation": "eager", "dtype": "float32"}

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float | Schedule = AUTO,
        batch_size: int | None = AUTO,
        n_critic_updates: int = AUTO,
        gamma: float = AUTO,
        gae_lambda: float = AUTO,
        target_kl: float = AUTO,
        cg_max_steps: int = AUTO,
        cg_damping: float = AUTO,
        fisher_rows: int | None = AUTO,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        normalize_advantage: bool = True,
        **common: Unpack[Options],
    ):
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.batch_size, self.n_critic_updates = batch_size, n_critic_updates
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.target_kl, self.cg_max_steps, self.cg_damping = target_kl, cg_max_steps, cg_damping
        self.fisher_rows = fisher_rows
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.normalize_advantage = normalize_advantage

    @property
    def rows_at_once(self) -> int:
        every = self.env.num_envs
        first = self.micro_batch_size or every
        second = min(first, self.fisher_rows or every)
        return max(first, SECOND_DERIVATIVES * second)

    def update(self, rollout: Rollout) -> dict[str, float]:
        columns = estimated_advantages(
            rollout, self.gamma, self.gae_lambda, self.normalize_advantage
        )
        step = self.trust_region_step(rollout.batch(**columns).of_all())
        metrics = step | critic_metrics(rollout, columns)
        return metrics | self.optimize(rollout, columns, self.n_critic_updates, self.batch_size)

    def trust_region_step(self, batch: Batch) -> dict[str, float]:
        """Update π: solve (H + λI)x = −g, scale x to ½ xᵀHx = δ, shorten x by line search."""
        delta = self.target_kl * self.scheduled(self.anneal) ** 2  # quadratic in the step
        parameters = self.policy.actor_parameters()
        before = [parameter.detach().clone() for parameter in parameters]
        parts = list(batch.micro_batches(self.micro_batch_size))
        loss, gradient, old, first_kl = self.loss_and_gradient(parts, parameters)

        share = self.fisher_rows and math.ceil(self.fisher_rows / distributed.process_count())
        rows = torch.randperm(len(batch), generator=self.generator)[:share]
        some = batch.take(rows.to(batch.mask.device)).of_all()
        fisher_here = natural.summed_operator(
            [partial(self.kl_to_itself, p) for p in some.micro_batches(self.micro_batch_size)],
            parameters,
        )
        step = natural.natural_step(
            lambda vector: distributed.all_reduce_tensor(fisher_here(vector)),
            gradient, delta, self.cg_damping, self.cg_max_steps,
        )  # fmt: skip

        reached: list[tuple[float, float]] = []

        @torch.no_grad()
        def displace(displacement: Tensor) -> tuple[float, float]:
            """Set the parameters to old + displacement. Returns the surrogate loss and KL there."""
            pieces = natural.unflatten(displacement, parameters)
            for parameter, start, piece in zip(parameters, before, pieces, strict=True):
                parameter.copy_(start + piece)
            sums: list[Any] = [0.0, 0.0]
            for part, distribution in zip(parts, old, strict=True):
                now = self.policy.evaluate(part.observations, part.actions, part.mask)
                divergence = distribution.kl(now.distribution)
                sums[0] += self.surrogate_loss(now.log_probs, part).double()
                sums[1] += token_mean(divergence, part.mask, part.counts).double()
            new_loss, kl = distributed.all_reduce(numbers(sums))
            reached.append((new_loss, kl))
            return new_loss, kl

        try:
            fraction = natural.line_search(
                displace, step, loss, delta,
                self.line_search_shrinking_factor, self.line_search_max_iter,
            )  # fmt: skip
            if fraction == 0:  # back to the old policy; else the last try has set the parameters
                displace(torch.zeros_like(step))
        except distributed.ProcessLost:  # the weights will be saved: not those of a mere try
            torch._foreach_copy_([parameter.detach() for parameter in parameters], before)
            raise
        new_loss, kl = reached[-1]
        return {
            "policy_objective": -new_loss,
            "improvement": loss - new_loss,
            "kl": kl,
            "step_fraction": fraction,
            "first_approx_kl": first_kl,
        }

    def loss_and_gradient(
        self, parts: list[Batch], parameters: list[Parameter]
    ) -> tuple[float, Tensor, list[Any], float]:
        """−E[r·A] over all parts, its gradient as one vector, each part's π_old, and the KL between
        π_old as it acted and as it is evaluated here, which only an error makes differ from 0."""
        sums: list[Any] = [0.0, 0.0]
        old: list[Any] = []
        gradient = natural.flatten(map(torch.zeros_like, parameters))
        for part in parts:
            now = self.policy.evaluate(part.observations, part.actions, part.mask)
            loss = self.surrogate_loss(now.log_probs, part)
            grads = torch.autograd.grad(loss, parameters, materialize_grads=True)
            gradient += natural.flatten(grads)
            sums[0] += loss.detach().double()
            sums[1] += ratio_metrics(now.log_probs, part, None)["approx_kl"]
            old.append(now.distribution.detach())
        loss_value, first_kl = distributed.all_reduce(numbers(sums))
        return loss_value, distributed.all_reduce_tensor(gradient), old, first_kl

    def kl_to_itself(self, batch: Batch) -> Tensor:
        """The mean KL(π_old‖π) at π = π_old: 0, and its Hessian is the Fisher information."""
        now = self.policy.evaluate(batch.observations, batch.actions, batch.mask).distribution
        return token_mean(now.detach().kl(now), batch.mask, batch.counts)

    @staticmethod
    def surrogate_loss(log_probs: Tensor, batch: Batch) -> Tensor:
        """−E[r·A]."""
        losses = surrogates.importance_weighted(log_probs, batch.old_log_probs, batch.advantages)
        return token_mean(losses, batch.mask, batch.counts)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The critic's loss, which `optimizer_step` minimises over the critic's own parameters."""
        values = self.policy.evaluate_values(batch.observations, batch.mask)
        return value_and_entropy_loss(values, None, batch, vf_coef=1.0, ent_coef=0.0)

    def trained_parameters(self) -> list[Parameter]:
        return self.policy.critic_parameters()
