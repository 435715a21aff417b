"""Terms that several algorithms have in common, each written once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from agents import distributed
from agents.experience.rollout import Batch, Rollout
from agents.functional import advantages as psi
from agents.functional import critic_losses, surrogates
from agents.functional.reductions import token_mean

Metrics = dict[str, Tensor | float]


def estimated_advantages(
    rollout: Rollout, gamma: float, gae_lambda: float, normalize: bool
) -> dict[str, Tensor]:
    """GAE over a rollout, and the critic's targets: the columns ``advantages`` and ``returns``."""
    advantages = psi.generalized_advantages(
        rollout.rewards, rollout.values, rollout.next_values, rollout.episode_end,
        gamma, gae_lambda, rollout.mask,
    )  # fmt: skip
    returns = advantages + rollout.values
    if normalize:
        of_all = distributed.gather(advantages[rollout.mask])
        advantages = psi.normalize(advantages, rollout.mask, population=of_all)
    return {"advantages": advantages, "returns": returns}


def critic_metrics(rollout: Rollout, columns: dict[str, Tensor]) -> dict[str, float]:
    """How well the critic that acted has foretold the returns."""
    values, returns = (
        distributed.gather(column[rollout.mask]) for column in (rollout.values, columns["returns"])
    )
    share = critic_losses.explained_variance(values, returns, torch.ones_like(values).bool())
    return {"explained_variance": float(share)}


def whole_returns(rollout: Rollout, gamma: float) -> Tensor:
    """R(τ) = Σ_t γ^t r_t of each row's episode, at every step of it ``[B, T]``.

    Raises:
        ValueError: a row is not one whole episode, so its sum of rewards is not a return.
    """
    if not rollout.whole_episodes:
        raise ValueError(
            "This needs one whole episode in each row of a rollout: give the agent a text "
            "environment by its id or unwrapped, or episodes of one step with n_steps=1."
        )
    return psi.trajectory_return(rollout.rewards, gamma, rollout.mask)


def group_advantages(
    rollout: Rollout, advantage_fn: Callable[[Tensor, int], Tensor], group_size: int
) -> dict[str, Tensor]:
    """Each row's return compared within its group, at every step: the column ``advantages``."""
    returns = whole_returns(rollout, gamma=1.0)[:, 0]
    return {"advantages": advantage_fn(returns, group_size)[:, None].expand_as(rollout.rewards)}


def value_and_entropy_loss(
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
            values, batch.old_values, batch.returns, clip_range_vf
        )
    value_loss = token_mean(errors, batch.mask, batch.counts)
    loss = vf_coef * value_loss
    metrics: Metrics = {"value_loss": value_loss.detach()}
    if entropy is not None:
        mean_entropy = token_mean(entropy, batch.mask, batch.counts)
        loss = loss - ent_coef * mean_entropy
        metrics["entropy"] = mean_entropy.detach()
    return loss, metrics


@torch.no_grad()
def ratio_metrics(
    log_probs: Tensor,
    batch: Batch,
    clip_range: float | None,
    clip_range_high: float | None = None,
) -> Metrics:
    """How far π is from the policy that acted: KL per step, and the fraction of clipped steps."""
    old = batch.old(log_probs)
    kl = surrogates.kl_old_new(log_probs, old)
    metrics: Metrics = {"approx_kl": token_mean(kl, batch.mask, batch.counts)}
    if batch.one_step:
        mismatch = (log_probs - batch.old_log_probs).abs()
        metrics["log_prob_mismatch"] = token_mean(mismatch, batch.mask, batch.counts)
    if clip_range is not None:
        metrics["clip_fraction"] = surrogates.clip_fraction(
            log_probs,
            old,
            batch.mask,
            clip_range,
            clip_range_high,
            counts=batch.counts,
        )
    return metrics


def reference_log_probs(batch: Batch) -> Tensor:
    """The batch's log π_ref.

    Raises:
        ValueError: the environment has no reference.
    """
    if batch.reference_log_probs is None:
        raise ValueError(
            "kl_loss_coef > 0 needs a reference: make the environment with reference=, the model "
            "to stay close to, or set kl_loss_coef=0."
        )
    return batch.reference_log_probs
