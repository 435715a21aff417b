"""Actor-critic (A2C, Mnih et al. 2016): REINFORCE whose baseline is a learned V(s_t)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agents.agent import Agent
from agents.functional import advantages as psi
from agents.functional import critic_losses, surrogates
from agents.functional.reductions import token_mean
from agents.rollout import Batch, Rollout


class ActorCritic(Agent):
    """Make actions likelier by how much better they turned out than the critic expected.

    Args:
        policy, env: as in `agents.Agent`, where the remaining arguments are explained as well.
        learning_rate: of AdamW.
        gamma: discount; 1 for text, where only the end is scored.
        gae_lambda: λ of GAE; 0 trusts the critic, 1 the returns.
        normalize_advantage: over the rollout's counted steps, to mean 0 and deviation 1.
        vf_coef: weight of the critic's loss.
        ent_coef: weight of the entropy bonus.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float = 1e-5,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        normalize_advantage: bool = True,
        vf_coef: float = 0.1,
        ent_coef: float = 0.0,
        **common: Any,
    ):
        super().__init__(policy, env, learning_rate=learning_rate, **common)
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.normalize_advantage = normalize_advantage
        self.vf_coef, self.ent_coef = vf_coef, ent_coef

    def update(self, rollout: Rollout) -> dict[str, float]:
        advantages = psi.generalized_advantages(
            rollout.rewards, rollout.values, rollout.next_values, rollout.ended,
            self.gamma, self.gae_lambda, rollout.mask,
        )  # fmt: skip
        returns = advantages + rollout.values
        if self.normalize_advantage:
            advantages = psi.normalize(advantages, rollout.mask)
        return self.descend(rollout.batch(advantages=advantages, returns=returns))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        now = self.policy.evaluate(
            batch.observations, batch.actions, batch.mask, entropy=self.ent_coef > 0
        )
        policy_loss = token_mean(
            surrogates.score_function(now.log_probs, batch.advantages), batch.mask, batch.num_steps
        )
        value_loss = token_mean(
            critic_losses.squared_error(now.values, batch.returns), batch.mask, batch.num_steps
        )
        loss = policy_loss + self.vf_coef * value_loss
        metrics = {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}
        if now.entropy is not None:
            entropy = token_mean(now.entropy, batch.mask, batch.num_steps)
            loss = loss - self.ent_coef * entropy
            metrics["entropy"] = entropy.detach()
        return loss, metrics
