"""Per-step losses of the value function, to minimise; with the shape of the inputs, usually [B, T].

There is no factor ½: as in stable-baselines3 it belongs to `vf_coef` (0.5 there). Ziegler et al.
2019 keep the ½ in the loss, so their coefficient of 0.1 is 0.05 here. Units are those of the return
squared. Gradients flow into `values` only.
"""

import torch
from torch import Tensor

from agents.functional._shapes import check_same_shape


def squared_error(values: Tensor, returns: Tensor) -> Tensor:
    """(V - R)² (Schulman et al. 2017, eq. 9)."""
    check_same_shape(values=values, returns=returns)
    return (values - returns.detach()).square()


def clipped_squared_error(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float
) -> Tensor:
    """max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²).

    Engstrom et al. 2020, §3. ε is in units of the return, so it depends on the reward's scale.
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    old_values = old_values.detach()
    near_old = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(squared_error(values, returns), squared_error(near_old, returns))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(R − V) / Var(R) over the counted steps: 1 is perfect, 0 no better than a constant.

    Zero if all returns are equal. As `explained_variance` of stable-baselines3, where R is V plus
    the estimated advantage.
    """
    check_same_shape(values=values, returns=returns, mask=mask)
    targets, errors = returns[mask], (returns - values)[mask]
    variance = targets.var(correction=0)
    if variance == 0:
        return torch.zeros_like(variance)
    return 1 - errors.var(correction=0) / variance
