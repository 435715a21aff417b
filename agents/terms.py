"""Terms that several algorithms have in common, each said once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agents.functional import advantages as psi
from agents.functional import critic_losses, surrogates
from agents.functional.reductions import token_mean
from agents.rollout import Batch, Rollout

Metrics = dict[str, Tensor | float]


def estimated_advantages(
    rollout: Rollout, gamma: float, gae_lambda: float, normalize: bool
) -> dict[str, Tensor]:
    """GAE over a rollout, and the critic's targets: the columns ``advantages`` and ``returns``."""
    advantages = psi.generalized_advantages(
        rollout.rewards, rollout.values, rollout.next_values, rollout.ended,
        gamma, gae_lambda, rollout.mask,
    )  # fmt: skip
    returns = advantages + rollout.values
    if normalize:
        advantages = psi.normalize(advantages, rollout.mask)
    return {"advantages": advantages, "returns": returns}


def whole_returns(rollout: Rollout) -> Tensor:
    """R(τ) of each row's episode, at every step of it ``[B, T]``.

    Raises:
        ValueError: a row is not one whole episode, so that its sum of rewards is no return.
    """
    if not rollout.whole_episodes:
        raise ValueError(
            "This needs one whole episode in each row of a rollout: give the agent a text "
            "environment by its id or unwrapped, or episodes of one step with n_steps=1."
        )
    return psi.trajectory_return(rollout.rewards, rollout.mask)


def group_advantages(
    rollout: Rollout, compare: Callable[[Tensor, int], Tensor], group_size: int
) -> dict[str, Tensor]:
    """Each row's return compared within its group, at every step: the column ``advantages``."""
    returns = whole_returns(rollout)[:, 0]
    return {"advantages": compare(returns, group_size)[:, None].expand_as(rollout.rewards)}


def reduced(losses: Tensor, batch: Batch, reduction: Callable[..., Tensor]) -> Tensor:
    """A reduction of losses ``[B, T]`` by the counts of the whole optimiser step, of which the
    batch may be a part: so the results of micro-batches add up."""
    averages_steps = getattr(reduction, "func", reduction) is token_mean
    count = batch.num_steps if averages_steps else batch.num_rows
    return reduction(losses, batch.mask, count=count)


def critic_terms(
    values: Tensor,
    entropy: Tensor | None,
    batch: Batch,
    vf_coef: float,
    ent_coef: float,
    clip_range_vf: float | None = None,
) -> tuple[Tensor, Metrics]:
    """vf_coef · mean (V − R)² − ent_coef · mean entropy, over the counted steps.

    With ``clip_range_vf`` the values are kept near those of the critic that acted.
    """
    if clip_range_vf is None:
        errors = critic_losses.squared_error(values, batch.returns)
    else:
        errors = critic_losses.clipped_squared_error(
            values, batch.values, batch.returns, clip_range_vf
        )
    value_loss = reduced(errors, batch, token_mean)
    terms, metrics = vf_coef * value_loss, {"value_loss": value_loss.detach()}
    if entropy is not None:
        mean_entropy = reduced(entropy, batch, token_mean)
        terms = terms - ent_coef * mean_entropy
        metrics["entropy"] = mean_entropy.detach()
    return terms, metrics


@torch.no_grad()
def ratio_metrics(
    log_probs: Tensor,
    batch: Batch,
    clip_range: float | None,
    clip_range_high: float | None = None,
) -> Metrics:
    """How far the policy has moved from the one that acted: KL per step, and what was clipped."""
    kl = surrogates.kl_old_new(log_probs, batch.log_probs)
    metrics: Metrics = {"approx_kl": reduced(kl, batch, token_mean)}
    if clip_range is not None:
        metrics["clip_fraction"] = surrogates.clip_fraction(
            log_probs,
            batch.log_probs,
            batch.mask,
            clip_range,
            clip_range_high,
            count=batch.num_steps,
        )
    return metrics


def reference_log_probs(batch: Batch) -> Tensor:
    """The batch's log π_ref.

    Raises:
        ValueError: the environment has no reference.
    """
    if batch.reference_log_probs is None:
        raise ValueError(
            "kl_penalty > 0 needs a reference: make the environment with reference=, the model to "
            "stay close to, or set kl_penalty=0."
        )
    return batch.reference_log_probs
