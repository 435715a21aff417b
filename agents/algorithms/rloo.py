"""RLOO (Kool et al. 2019; Ahmadian et al. 2024): REINFORCE whose baseline is the mean return of the
other answers to the same prompt."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from agents.agent import Agent, Schedule
from agents.algorithms.terms import Metrics, group_advantages, ratio_metrics
from agents.experience.rollout import Batch, Rollout
from agents.functional import surrogates
from agents.functional.advantages import leave_one_out
from agents.functional.reductions import sequence_sum
from agents.training.hyperparameters import AUTO, Options


class RLOO(Agent):
    """Make an answer more likely by how much it is better than the others of its group.

    There is no critic; the KL to the reference belongs in the reward (``kl_coef`` of the
    environment). A row of the rollout has to be one episode, as it is for text.

    Args:
        policy, env: as in `agents.Agent`, which also explains the remaining arguments.
        learning_rate: the learning rate of AdamW.
        group_size: G, the number of consecutive rows that begin with the same prompt.
    """

    compares_groups = True

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float | Schedule = AUTO,
        group_size: int = 4,
        **common: Unpack[Options],
    ):
        super().__init__(policy, env, learning_rate=learning_rate, group_size=group_size, **common)

    @property
    def takes_one_step(self) -> bool:
        return True

    def update(self, rollout: Rollout) -> dict[str, float]:
        columns = group_advantages(rollout, leave_one_out, self.group_size)
        return self.optimize(rollout, columns)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        log_probs = self.policy.evaluate(batch.observations, batch.actions, batch.mask).log_probs
        losses = surrogates.score_function(log_probs, batch.advantages)
        loss = sequence_sum(losses, batch.mask, batch.counts)
        return loss, {"policy_loss": loss.detach(), **ratio_metrics(log_probs, batch, None)}
