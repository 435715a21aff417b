"""Lookahead: PPO that also asks its critic where other tokens would have led.

To append a token is all that a step of generation does. So Q(s, a) is V(s·a) less what the step
costs, and a critic can judge K other tokens at each state without any further sampling.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from agents.algorithms.critic import LearnsValues
from agents.algorithms.minibatches import TakesSeveralSteps
from agents.experience import environments
from agents.experience.rollout import Batch, Rollout, with_last
from agents.experience.steps import OnStep
from agents.functional import advantages as psi
from agents.functional import surrogates
from agents.training.hyperparameters import AUTO
from textenv.arguments import Range

ONLY_TEXT = (
    "Lookahead knows the next state only where a token is appended: it needs a text environment "
    "that does not reply, by its id or unwrapped, and a language model as its policy."
)


class Lookahead(LearnsValues, TakesSeveralSteps):
    """Maximise Σ_k min(r_k·w_k, clip(r_k, 1−ε, 1+ε)·w_k) over the token that was taken and K
    others that π_old might have taken; w as of `agents.functional.advantages.lookahead`."""

    candidates: Annotated[int, Range(1)] = 8
    "K, the number of other tokens that are judged at each state."
    clip_range: Annotated[float, Range(above=0)] = 0.2
    "ε."
    gae_lambda: Annotated[float, Range(0, 1)] = AUTO
    "λ of the advantages (Schulman et al. 2016)."
    vf_lambda: Annotated[float, Range(0, 1)] = 0.9
    "λ of the returns that the critic learns, which may be less biased than the advantages."

    needs_whole_weights_for: ClassVar[str] = "values after other tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        texts = environments.text_environments(self.env)
        if not texts or texts[0].task.respond is not None or not self.policy.sequential:
            raise ValueError(ONLY_TEXT)
        self.kl_coef = environments.kl_coef(self.env)

    def collect(self, on_step: OnStep | None = None) -> Rollout:
        self.kl_coef = environments.kl_coef(self.env)  # of this rollout; a schedule then moves it
        return super().collect(on_step)

    def update(self, rollout: Rollout) -> dict[str, float]:
        if not rollout.whole_episodes:
            raise ValueError(ONLY_TEXT)
        choices = self.with_choices(rollout)
        costs = self.costs(choices)
        advantages = rollout.generalized_advantages(self.gamma, self.gae_lambda)
        returns = rollout.generalized_advantages(self.gamma, self.vf_lambda) + rollout.values
        weights = self.weights(choices, costs, advantages)
        # The critic is asked what finished texts are worth, so it learns that as well: the score.
        steps = rollout.mask.sum(dim=1)
        scores = (rollout.rewards + costs[..., 0]).gather(1, steps[:, None] - 1)[:, 0]
        return self.optimize(
            choices.with_last_states(), self.n_epochs, self.batch_size,
            advantages=with_last(weights, steps), returns=with_last(returns, steps, scores),
        )  # fmt: skip

    @torch.no_grad()
    def with_choices(self, rollout: Rollout) -> Rollout:
        """The token that was taken at each state and K others ``[B, T, 1 + K]``, with log π_old."""
        distribution = self.policy.evaluate(rollout.batch()).distribution
        others = distribution.draw(self.candidates, self.policy.generator)
        actions = torch.cat([rollout.actions[..., None], others], dim=-1)
        log_probs = distribution.log_probs(actions)[0]
        mismatch = (log_probs[..., 0] - rollout.log_probs).abs()
        return replace(rollout, actions=actions, log_probs=log_probs, log_prob_mismatch=mismatch)

    def costs(self, choices: Rollout) -> Tensor:
        """β·(log π_old − log π_ref) of each choice ``[B, T, 1 + K]``; 0 without a reference."""
        shaping = environments.text_environments(self.env)[0].shaping
        if shaping is None:
            return torch.zeros_like(choices.log_probs)
        tokens, begins = choices.observations["input_ids"], choices.observations
        reference = shaping.score(tokens, begins, choices.actions, choices.mask)
        return self.kl_coef * (choices.log_probs - reference)

    def weights(self, choices: Rollout, costs: Tensor, advantages: Tensor) -> Tensor:
        """w ``[B, T, 1 + K]``, divided by the standard deviation of the advantages."""
        action_values = self.gamma * self.policy.values_after(choices) - costs
        foretold = action_values[..., 0] - choices.values
        future = choices.mean(advantages - foretold)
        weights = psi.lookahead(
            advantages, choices.values, action_values, choices.mask, future=future
        )
        return weights / (choices.standard_deviation(advantages) + 1e-8)

    def loss(self, batch: Batch) -> Tensor:
        now = self.policy.evaluate(batch, entropy=self.ent_coef > 0)
        losses = surrogates.clipped(
            now.log_probs, batch.old_log_probs, batch.advantages, self.clip_range
        )
        with torch.no_grad():  # at the last states nothing was done
            taken, before = now.log_probs[..., 0], batch.old_log_probs[..., 0]
            divergence = surrogates.kl_old_new(taken, before)
            batch.mean("approx_kl", torch.where(before < 0, divergence, 0.0))
        policy_loss = batch.mean("policy_loss", losses.sum(dim=-1))
        return policy_loss + self.value_and_entropy_loss(now, batch)
