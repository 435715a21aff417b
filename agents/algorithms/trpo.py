"""Trust region policy optimisation (Schulman et al. 2015): the largest improvement of the surrogate
within KL(π_old‖π) ≤ δ, by a natural-gradient step and a line search."""

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from agents.algorithms.critic import EstimatesAdvantages
from agents.experience.rollout import Batch, Rollout
from agents.functional import critic_losses, surrogates
from agents.functional import natural_gradient as natural
from agents.training.hyperparameters import AUTO
from agents.training.optimization import hessian_operator, total, value_and_gradient
from textenv.arguments import Range


class TRPO(EstimatesAdvantages):
    """Maximise E[r·A] subject to mean KL(π_old‖π) ≤ δ.

    The KL is the exact one, over all actions. The critic is fitted separately afterwards, with its
    own parameters only, so that only the accepted step changes the policy: the learning rate is the
    critic's. A language model has to be loaded with ``attn_implementation="eager"``, for second
    derivatives, and in float32.
    """

    batch_size: Annotated[int | None, Range(1)] = AUTO
    "Rows per optimiser step of the critic; None takes the whole rollout."
    n_critic_updates: Annotated[int, Range(1)] = AUTO
    "Passes over each rollout that fit the critic."
    target_kl: Annotated[float, Range(above=0)] = AUTO
    """δ, nats per step. With ``lr_schedule`` the length of the step is annealed too: δ is
    multiplied by the square of its factor."""
    cg_max_steps: Annotated[int, Range(1)] = AUTO
    "Iterations of conjugate gradient."
    cg_damping: Annotated[float, Range(0)] = AUTO
    """λ in (H + λI)x = −g, which is solved for the direction. The length of the step uses H itself,
    ½ xᵀHx = δ."""
    fisher_rows: Annotated[int | None, Range(1)] = AUTO
    """Rows that H is estimated from, in all processes; None uses all. Second derivatives need
    several times the memory of first ones."""
    line_search_shrinking_factor: Annotated[float, Range(above=0, below=1)] = 0.8
    "Factor by which each try shortens the step."
    line_search_max_iter: Annotated[int, Range(1)] = 10
    "Largest number of tries."
    normalize_advantage = True

    needs_whole_weights_for: ClassVar[str] = "second derivatives"
    policy_needs: ClassVar[dict[str, Any]] = {"attn_implementation": "eager", "dtype": "float32"}

    def update(self, rollout: Rollout) -> dict[str, float]:
        advantages, returns = self.estimated_advantages(rollout)
        found = self.trust_region_step(rollout, advantages)
        return found | self.optimize(
            rollout, self.n_critic_updates, self.batch_size, returns=returns
        )

    def trust_region_step(self, rollout: Rollout, advantages: Tensor) -> dict[str, float]:
        """Update π: solve (H + λI)x = −g, scale x to ½ xᵀHx = δ, shorten x by line search."""
        delta = self.target_kl * self.scheduled(self.anneal) ** 2  # quadratic in the step
        parameters = self.policy.actor_parameters()
        start = [parameter.detach().clone() for parameter in parameters]
        parts = self.parts(rollout, advantages=advantages)
        loss, gradient = value_and_gradient(self.surrogate_loss, parts, parameters)
        some = self.random_parts(rollout, self.fisher_rows)
        fisher = hessian_operator(self.kl_to_itself, some, parameters)
        step = natural.natural_step(fisher, gradient, delta, self.cg_damping, self.cg_max_steps)
        reached: list[tuple[float, float]] = []

        @torch.no_grad()
        def displace(displacement: Tensor) -> tuple[float, float]:
            """Set the parameters to old + displacement. Returns the surrogate loss and KL there."""
            pieces = natural.unflatten(displacement, parameters)
            for parameter, before, piece in zip(parameters, start, pieces, strict=True):
                parameter.copy_(before + piece)
            new_loss, kl = total(self.loss_and_kl, parts, count=2)
            reached.append((new_loss, kl))
            return new_loss, kl

        try:
            fraction = natural.line_search(
                displace, step, loss, delta,
                self.line_search_shrinking_factor, self.line_search_max_iter,
            )  # fmt: skip
            if fraction == 0:  # back to the old policy; else the last try has set the parameters
                displace(torch.zeros_like(step))
        except BaseException:  # the weights may be saved: not those of a mere try
            torch._foreach_copy_([parameter.detach() for parameter in parameters], start)
            raise
        new_loss, kl = reached[-1]
        (first_kl,) = total(lambda part: [part.means["approx_kl"]], parts)
        return {
            "policy_objective": -new_loss,
            "improvement": loss - new_loss,
            "kl": kl,
            "step_fraction": fraction,
            "first_approx_kl": first_kl,
        }

    def surrogate_loss(self, batch: Batch) -> Tensor:
        """−E[r·A] at π_old, which is kept."""
        now = self.evaluate(batch)
        batch.old_distribution = now.distribution.detach()
        return self.mean_surrogate(now.log_probs, batch)

    def loss_and_kl(self, batch: Batch) -> list[Tensor]:
        """−E[r·A] and mean KL(π_old‖π), over all actions."""
        now = self.policy.evaluate(batch)
        kl = batch.mean("kl", batch.old_distribution.kl(now.distribution))
        return [self.mean_surrogate(now.log_probs, batch), kl]

    def mean_surrogate(self, log_probs: Tensor, batch: Batch) -> Tensor:
        losses = surrogates.importance_weighted(log_probs, batch.old_log_probs, batch.advantages)
        return batch.mean("policy_loss", losses)

    def kl_to_itself(self, batch: Batch) -> Tensor:
        """The mean KL(π_old‖π) at π = π_old: 0, and its Hessian is the Fisher information."""
        now = self.policy.evaluate(batch).distribution
        return batch.mean("kl", now.detach().kl(now))

    def loss(self, batch: Batch) -> Tensor:
        """The critic's loss, minimised over the critic's own parameters."""
        values = self.policy.evaluate_values(batch)
        return batch.mean("value_loss", critic_losses.squared_error(values, batch.returns))

    def trained_parameters(self) -> list[Tensor]:
        return self.policy.critic_parameters()
