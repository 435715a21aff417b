"""Old log-probabilities if the policy acts in a reduced precision."""

from __future__ import annotations

import torch

from agents.experience.rollout import Rollout
from agents.policies.base import Policy


@torch.no_grad()
def evaluate_old_log_probs(policy: Policy, rollout: Rollout, rows_at_once: int | None) -> None:
    """Take a rollout's log π_old from `evaluate`, so that the ratio is 1 in the first minibatch.

    The difference of acting and evaluating is stored as ``rollout.log_prob_mismatch``.

    Args:
        policy: has the weights that were used for acting.
        rollout: changed in place.
        rows_at_once: rows per forward pass; None takes all.
    """
    whole = rollout.batch()
    mismatch = torch.zeros_like(rollout.log_probs)
    for rows in torch.arange(len(whole), device=whole.mask.device).split(
        rows_at_once or len(whole)
    ):
        part = whole.take(rows)
        evaluation = policy.evaluate(part.observations, part.actions, part.mask)
        mismatch[rows] = (evaluation.log_probs - part.old_log_probs).abs()
        rollout.log_probs[rows] = evaluation.log_probs
    rollout.log_prob_mismatch = mismatch
