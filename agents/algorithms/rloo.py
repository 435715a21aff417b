"""RLOO (Kool et al. 2019; Ahmadian et al. 2024): REINFORCE whose baseline is the mean return of the
other answers to the same prompt."""

from torch import Tensor

from agents.agent import Agent
from agents.experience.rollout import Batch, Rollout
from agents.functional import surrogates
from agents.functional.advantages import leave_one_out
from agents.functional.reductions import sequence_sum


class RLOO(Agent):
    """Make an answer more likely by how much it is better than the others of its group.

    There is no critic; the KL to the reference belongs in the reward (``kl_coef`` of the
    environment). A row of the rollout has to be one episode, as it is for text.
    """

    group_size = 4
    compares_groups = True

    def update(self, rollout: Rollout) -> dict[str, float]:
        advantages = rollout.group_advantages(leave_one_out, self.gamma, self.group_size)
        return self.optimize(rollout, advantages=advantages)

    def loss(self, batch: Batch) -> Tensor:
        log_probs = self.evaluate(batch).log_probs
        losses = surrogates.score_function(log_probs, batch.advantages)
        return batch.mean("policy_loss", losses, sequence_sum)
