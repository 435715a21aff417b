"""Actor-critic (A2C, Mnih et al. 2016): REINFORCE whose baseline is a learned V(s_t)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agents.agent import Agent
from agents.functional import surrogates
from agents.functional.reductions import token_mean
from agents.rollout import Batch, Rollout
from agents.terms import Metrics, critic_terms, estimated_advantages, reduced


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
        columns = estimated_advantages(
            rollout, self.gamma, self.gae_lambda, self.normalize_advantage
        )
        return self.descend_all(rollout, columns)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        now = self.policy.evaluate(
            batch.observations, batch.actions, batch.mask, entropy=self.ent_coef > 0
        )
        losses = surrogates.score_function(now.log_probs, batch.advantages)
        policy_loss = reduced(losses, batch, token_mean)
        terms, metrics = critic_terms(now.values, now.entropy, batch, self.vf_coef, self.ent_coef)
        return policy_loss + terms, {"policy_loss": policy_loss.detach(), **metrics}
