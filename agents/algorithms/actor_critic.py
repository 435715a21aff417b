"""Actor-critic (A2C, Mnih et al. 2016): REINFORCE whose baseline is a learned V(s_t)."""

from torch import Tensor

from agents.algorithms.critic import EstimatesAdvantages, LearnsValues
from agents.experience.rollout import Batch, Rollout
from agents.functional import surrogates


class ActorCritic(EstimatesAdvantages, LearnsValues):
    """Make actions more likely by how much better they were than the critic expected."""

    def update(self, rollout: Rollout) -> dict[str, float]:
        advantages, returns = self.estimated_advantages(rollout)
        return self.optimize(rollout, advantages=advantages, returns=returns)

    def loss(self, batch: Batch) -> Tensor:
        now = self.evaluate(batch, entropy=self.ent_coef > 0)
        losses = surrogates.score_function(now.log_probs, batch.advantages)
        return batch.mean("policy_loss", losses) + self.value_and_entropy_loss(now, batch)
