"""Per-step policy losses to minimise, and sampled KLs that may be added to them.

Arguments and results have the same shape, usually [B, T]. Actions were sampled from π_old,
whose log-probs are `old_log_probs`: on fresh data, `log_probs.detach()`. r = π(a) / π_old(a).
Log-probs and KLs are in nats, losses in units of the advantage. Gradients flow into `log_probs`
only: all else is fixed. Nothing is clamped unless a formula clips it; a ratio may overflow.
"""

import torch
from torch import Tensor

from agents.functional._shapes import check_bool, check_same_shape
from agents.functional.reductions import Counts
from textenv.kl.estimators import k3


def ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """r = π(a) / π_old(a)."""
    check_same_shape(log_probs=log_probs, old_log_probs=old_log_probs)
    return (log_probs - old_log_probs.detach()).exp()


def score_function(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-log π(a) · Ψ, the policy gradient itself (Williams 1992; Schulman et al. 2016, eq. 1)."""
    check_same_shape(log_probs=log_probs, advantages=advantages)
    return -log_probs * advantages.detach()


def importance_weighted(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-r A (TRPO: Schulman et al. 2015, eq. 14). Its gradient at r = 1 is `score_function`'s."""
    check_same_shape(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    return -ratio(log_probs, old_log_probs) * advantages.detach()


def clipped(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
) -> Tensor:
    """-min(r A, clip(r, 1 - ε, 1 + ε) A) (PPO: Schulman et al. 2017, eq. 7).

    Args:
        clip_range: ε below 1, and above it too when `clip_range_high` is None.
        clip_range_high: ε above 1 ("clip-higher", DAPO: Yu et al. 2025, §3.1).
    """
    check_same_shape(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    advantages = advantages.detach()
    ratios = ratio(log_probs, old_log_probs)
    high = clip_range if clip_range_high is None else clip_range_high
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip_range, 1 + high) * advantages)


def dual_clipped(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_range: float,
    dual_clip: float,
    clip_range_high: float | None = None,
) -> Tensor:
    """`clipped`, and at most -c A where A < 0 (Ye et al. 2020, eq. 5, c = 3).

    Without c the loss of an action with A < 0 grows with r without bound. c = `dual_clip` has to be
    above 1, else it is a ValueError: a smaller one would change the range of `clipped`.
    """
    if dual_clip <= 1:
        raise ValueError(f"dual_clip must be greater than 1, got {dual_clip}")
    losses = clipped(log_probs, old_log_probs, advantages, clip_range, clip_range_high)
    bound = -dual_clip * advantages.detach()
    return torch.where(advantages < 0, torch.minimum(losses, bound), losses)


def gspo(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
) -> Tensor:
    """`clipped` with one ratio for each response (GSPO: Zheng et al. 2025, eq. 5 to 7).

    s = (π(y) / π_old(y))^(1/|y|), the geometric mean of the ratios of its steps `[..., T]` in
    `mask`. Every step has the loss of its response, so that `reductions.sequence_mean` gives the
    objective of the paper, where ε is about 3e-4. Rows have to be whole responses, each with one
    advantage.
    """
    check_same_shape(log_probs=log_probs, old_log_probs=old_log_probs, mask=mask)
    check_bool(mask=mask)
    difference = ((log_probs - old_log_probs.detach()) * mask).sum(-1, keepdim=True)
    mean = (difference / mask.sum(-1, keepdim=True).clamp(min=1)).expand_as(log_probs)
    return clipped(mean, torch.zeros_like(mean), advantages, clip_range, clip_range_high)


def cispo(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_range_high: float,
    clip_range: float = 1.0,
) -> Tensor:
    """-sg(clip(r, 1 - ε, 1 + ε_high)) A log π(a) (CISPO: MiniMax-M1 2025, eq. 4 and 5).

    The weight is clipped and fixed, and no step loses its gradient, as it does in `clipped`. ε = 1
    leaves small ratios as they are, as in the paper.
    """
    check_same_shape(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    weights = ratio(log_probs, old_log_probs).clamp(1 - clip_range, 1 + clip_range_high)
    return weights.detach() * score_function(log_probs, advantages)


@torch.no_grad()
def clip_fraction(
    log_probs: Tensor,
    old_log_probs: Tensor,
    mask: Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
    counts: Counts | None = None,
) -> Tensor:
    """Metric: the fraction of counted steps with r outside [1 - ε, 1 + ε], for any advantage.

    `counts` as in `reductions`: those of the whole step, of which this may be a micro-batch. A
    scalar; NaN when no step counts.
    """
    check_same_shape(log_probs=log_probs, old_log_probs=old_log_probs, mask=mask)
    check_bool(mask=mask)
    ratios = ratio(log_probs, old_log_probs)
    high = clip_range if clip_range_high is None else clip_range_high
    outside = ((ratios < 1 - clip_range) | (ratios > 1 + high)) & mask
    return outside.sum() / (mask.sum() if counts is None else counts.steps)


def kl_old_new(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """KL(π_old‖π) from a ~ π_old: r - 1 - log r, which is `k3` with its arguments swapped.

    PPO's penalty (Schulman et al. 2017, eq. 8) and TRPO's constraint. Never negative. The actions
    come from π_old, which is fixed, so value and gradient are both unbiased.
    """
    check_same_shape(log_probs=log_probs, old_log_probs=old_log_probs)
    return k3(old_log_probs.detach(), log_probs)


def kl_new_old(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """KL(π‖π_old) from a ~ π_old: r log r - (r - 1).

    Never negative; value and gradient unbiased. It is `importance_weighted_kl` to π_old itself.
    """
    return importance_weighted_kl(log_probs, old_log_probs, old_log_probs)


def importance_weighted_kl(
    log_probs: Tensor, old_log_probs: Tensor, reference_log_probs: Tensor
) -> Tensor:
    """KL(π‖π_ref) from a ~ π_old: r · k3(log π, log π_ref) (DeepSeek-V3.2, 2025, §3.1).

    GRPO (Shao et al. 2024, eq. 4) uses plain `k3`, whose value is correct only if π = π_old and
    whose gradient is then that of KL(π_ref‖π). The weight r, with its gradient, corrects both: the
    mean of r k3 under π_old is that of k3 under π, KL(π‖π_ref), for every π. Never negative.
    """
    check_same_shape(
        log_probs=log_probs, old_log_probs=old_log_probs, reference_log_probs=reference_log_probs
    )
    return ratio(log_probs, old_log_probs) * k3(log_probs, reference_log_probs.detach())


def adaptive_penalty(coefficient: float, kl: float, target: float) -> float:
    """The next β of PPO's adaptive KL penalty (Schulman et al. 2017, §4).

    β doubles if kl > 1.5 target, halves if kl < target / 1.5, and else does not change. `kl` and
    `target` are in the same unit: nats per step if the losses are reduced by a mean over steps.
    """
    if kl > 1.5 * target:
        return coefficient * 2
    if kl < target / 1.5:
        return coefficient / 2
    return coefficient
