"""Estimators of KL(π‖π_ref), per step, in nats.

`k1`, `k2` and `k3` (Schulman 2020, "Approximating KL Divergence",
http://joschu.net/blog/kl-approx.html) need only the log-probs of a sampled action a ~ π and
broadcast. `exact` needs the logits of every action. With x = log π(a) - log π_ref(a):

| | formula | mean | >= 0 | mean gradient in a loss | mean gradient in a reward |
|---|---|---|---|---|---|
| `k1` | x | KL | no | 0 | ∇KL |
| `k2` | x² / 2 | near KL | yes | ∇KL | 0 near π_ref |
| `k3` | exp(-x) - 1 + x | KL | yes | ∇KL(π_ref‖π) | ∇KL - ∇KL(π_ref‖π), 0 near π_ref |
| `exact` | Σ_a π(a) x(a) | KL | yes | ∇KL | 0 |

Means are over a ~ π, KL is KL(π‖π_ref), "near" means to first order in π - π_ref, and the last
column is the mean of the score function ∇log π(a) times the step's own value. So use `k1` in a
reward and never in a loss, `k2` and `exact` in a loss and never in a reward, and `k3` for
measuring. (In a reward each estimator also acts on the earlier actions that led to the state; all
except `k2` do this without bias.) Gradients flow into both arguments; detach what must stay fixed.
"""

import torch
from torch import Tensor

ESTIMATORS = ("k1", "k2", "k3", "exact")


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """log π(a) - log π_ref(a): unbiased, with high variance, and negative for many actions."""
    return log_probs - reference_log_probs


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """(log π(a) - log π_ref(a))² / 2: a biased value, but the correct gradient in a loss."""
    return (log_probs - reference_log_probs).square() / 2


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """π_ref(a)/π(a) - 1 - log(π_ref(a)/π(a)): unbiased, with low variance, never negative."""
    log_ratio = reference_log_probs - log_probs
    return torch.expm1(log_ratio) - log_ratio


def exact(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Σ_a π(a) (log π(a) - log π_ref(a)), the KL itself, [...], in float32 or better.

    Logits are [..., V], both of one shape, normalised or not (log-probs are logits too). -inf bans
    an action: one that π bans adds 0, and one that only π_ref bans makes the KL infinite.
    """
    if logits.shape != reference_logits.shape:
        raise ValueError(
            f"logits {list(logits.shape)} and reference_logits {list(reference_logits.shape)} "
            "must have the same shape"
        )
    log_probs = _log_softmax(logits)
    difference = log_probs - _log_softmax(reference_logits)
    possible = log_probs > -torch.inf  # elsewhere 0 · log 0 counts as 0, also in the gradient
    return (log_probs.exp() * torch.where(possible, difference, 0.0)).sum(dim=-1)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
