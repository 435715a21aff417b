"""The factors of ∇log π(a_t|s_t): returns, temporal differences, and scores compared in a group.

All are plain arithmetic: gradients flow through rewards and values, so pass values that were
computed without gradient (the surrogates detach advantages in any case). Units are those of the
reward. Of steps, arguments and results are [B, T]:

- `rewards`, `values`: r_t and V(s_t).
- `next_values`: V(s_{t+1}): 0 where terminated, V(final observation) where truncated.
- `episode_end`: bool, the episode ends after step t, terminated or truncated.
- `mask`: bool, the steps that count. The others return 0, and divide the row like an end.
- `gamma`, `gae_lambda`: in [0, 1]; numbers, or one for each step, such as those of `once_a_turn`.
- `turn_end`: bool, of dialogues: the environment replies after step t, or the episode ends.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from agents.functional._shapes import check_rows


def discounted_returns(
    rewards: Tensor,
    episode_end: Tensor,
    gamma: float | Tensor,
    next_values: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return-to-go G_t = r_t + γ G_{t+1}, or r_t + γ V(s_{t+1}) where the episode or the row ends.

    Sutton & Barto 2018, eq. 3.9. `next_values` are read where `episode_end`, in the last column,
    and before a masked step; None means 0 everywhere.
    """
    check_rows(rewards=rewards, episode_end=episode_end, next_values=next_values, mask=mask)
    continues = _continues(episode_end, mask)
    terms = rewards
    if next_values is not None:
        terms = rewards + gamma * torch.where(continues, 0.0, next_values)
    return _discounted_sums(_counted(terms, mask), continues, gamma)


def trajectory_return(rewards: Tensor, gamma: float, mask: Tensor) -> Tensor:
    """R(τ) = Σ_t γ^t r_t over the counted steps, repeated at every step of its row, masked ones
    too.

    Each row must be one episode, from its first step. This is Ψ_t of the simplest REINFORCE
    (Williams 1992; Sutton & Barto 2018, eq. 3.8).
    """
    check_rows(rewards=rewards, mask=mask)
    discounts = gamma ** torch.arange(rewards.shape[1], device=rewards.device)
    returns = (_counted(rewards, mask) * discounts).sum(dim=1, keepdim=True)
    return returns.repeat(1, rewards.shape[1])


def temporal_difference_errors(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    gamma: float | Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """δ_t = r_t + γ V(s_{t+1}) - V(s_t) (Sutton & Barto 2018, eq. 6.5)."""
    check_rows(rewards=rewards, values=values, next_values=next_values, mask=mask)
    return _counted(rewards + gamma * next_values - values, mask)


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    episode_end: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """GAE(γ, λ): A_t = δ_t + γλ A_{t+1} within an episode (Schulman et al. 2016, eq. 16).

    λ = 0 gives the temporal-difference error, λ = 1 the discounted return minus the value. Adding
    `values` gives the λ-return, the usual target of the critic.
    """
    check_rows(
        rewards=rewards, values=values, next_values=next_values, episode_end=episode_end, mask=mask
    )
    errors = temporal_difference_errors(rewards, values, next_values, gamma, mask)
    return _discounted_sums(errors, _continues(episode_end, mask), gamma * gae_lambda)


def once_a_turn(factor: float, turn_end: Tensor) -> Tensor:
    """γ or λ that applies at the ends of turns, and is 1 within a turn [B, T].

    With it `generalized_advantages` sees a whole turn as one action, as on the level of messages
    (Zhou et al. 2024, ArCHer, section 3): A of each of its tokens takes V from the ends of turns.
    """
    return torch.where(turn_end, factor, 1.0)


def moving_average_baseline(baseline: float, batch_mean: float, momentum: float) -> float:
    """b ← m b + (1 - m) · mean return of the batch (reinforcement comparison, Williams 1992).

    Subtract the old b from a batch before updating it with that batch: a baseline is unbiased
    only if it does not depend on the actions that it is compared with.
    """
    return momentum * baseline + (1 - momentum) * batch_mean


def group_centered(scores: Tensor, group_size: int) -> Tensor:
    """score - mean of its group (Dr. GRPO: Liu et al. 2025, §3.2). See `group_relative`."""
    return _deviations(_groups(scores, group_size)).reshape(-1)


def group_relative(scores: Tensor, group_size: int, epsilon: float = 1e-4) -> Tensor:
    """(score - mean) / (std + ε) within its group (GRPO: Shao et al. 2024, §4.1.2).

    Args:
        scores: [N], one per episode; each `group_size` consecutive ones answer the same prompt.
        group_size: at least 2; divides N.
        epsilon: avoids 0 / 0 in a group of equal scores. 1e-4, the value in TRL, is not negligible
            for scores with differences of that size.

    Returns:
        [N]; std is with Bessel's correction; a group of equal scores gives exactly 0.
    """
    deviations = _deviations(_groups(scores, group_size))
    variance = deviations.square().sum(dim=1, keepdim=True) / (group_size - 1)
    return (deviations / (variance.sqrt() + epsilon)).reshape(-1)


def leave_one_out(scores: Tensor, group_size: int) -> Tensor:
    """score - mean of the others of its group (RLOO: Kool et al. 2019; Ahmadian et al. 2024).

    Args and shape as for `group_relative`. It sums to 0 in each group, and equals `group_centered`
    times G / (G - 1).
    """
    return group_centered(scores, group_size) * (group_size / (group_size - 1))


def over_turns(
    compare: Callable[[Tensor], Tensor],
    returns: Tensor,
    turn_end: Tensor,
    mask: Tensor,
    group_size: int,
) -> Tensor:
    """Returns-to-go compared by position: those of the k-th turns of a group's members that have
    one, at each step of the turn [B, T]. A turn that no other member has is compared with 0.

    Args:
        compare: `[n] -> [n]` of n members, at least 2: `group_centered`, `group_relative` or
            `leave_one_out` with ``group_size=n``.
        returns: [B, T], such as `discounted_returns`; that of a turn is the one at its first step.
        group_size: each `group_size` consecutive rows answer the same prompt.
    """
    check_rows(returns=returns, turn_end=turn_end, mask=mask)
    begins = mask.clone()
    begins[:, 1:] &= turn_end[:, :-1]
    turn = begins.cumsum(dim=1) - 1  # of each step
    advantages = torch.zeros_like(returns)
    for k in range(int(turn.max()) + 1):
        first = begins & (turn == k)
        of_turn = _counted(returns, first).sum(dim=1)
        for members in _groups(torch.arange(len(returns)), group_size):
            there = members[first[members].any(dim=1)]
            if len(there) > 1:
                compared = compare(of_turn[there])
                steps = (turn[there] == k) & mask[there]
                advantages[there] += torch.where(steps, compared[:, None], 0.0)
            elif len(there) == 1:
                steps = (turn[there] == k) & mask[there]
                advantages[there] += torch.where(steps, of_turn[there][:, None], 0.0)
    return advantages


def lookahead(
    advantages: Tensor, values: Tensor, action_values: Tensor, mask: Tensor, future: float = 0.0
) -> Tensor:
    """Weights of ∇log π(a_k|s_t) for 1 + K actions at each state, where it is known what each of
    them leads to [B, T, 1 + K]:

        w_k = (ζ_k - mean of the other ζ) / (1 + K), and for the action that was taken (k = 0) also
        A - (ζ_0 - V(s_t)) - `future`

    The first part is leave-one-out over actions, and its mean is E_a[ζ(s, a) ∇log π(a|s)], as the
    K other actions are drawn as the taken one was. The second is what happened later, beyond what
    ζ_0 foretold. Where `advantages` are returns less a baseline (λ = 1), both together have the
    policy gradient as their mean, for any critic.

    Args:
        advantages: A_t of the action that was taken, such as `generalized_advantages`.
        action_values: ζ(s_t, a_k) = r(s_t, a_k) + γ V(s_t a_k) [B, T, 1 + K], that of the action
            that was taken first; r is what is known of the reward at once, such as the cost of KL.
        future: a baseline of the second part, such as its mean.
    """
    check_rows(advantages=advantages, values=values, mask=mask)
    count = action_values.shape[-1]
    others = (action_values.sum(dim=-1, keepdim=True) - action_values) / (count - 1)
    weights = (action_values - others) / count
    later = advantages - (action_values[..., 0] - values) - future
    weights = torch.cat([weights[..., :1] + later[..., None], weights[..., 1:]], dim=-1)
    return torch.where(mask[..., None], weights, 0.0)


def normalize(
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 1e-8,
    moments: tuple[float, float] | None = None,
) -> Tensor:
    """(A - mean) / (std + ε) over the counted steps (Andrychowicz et al. 2021, choice C67).

    `epsilon` avoids 0 / 0 for equal advantages; they give exactly 0, and so do a single counted
    step and all masked ones. std is with Bessel's correction. `moments` are mean and std of the
    population of which these advantages are a part; None takes those of the counted ones.
    """
    check_rows(advantages=advantages, mask=mask)
    counted = advantages[mask]
    if moments is None:
        normalized = _deviations(counted[None])[0] / (_standard_deviation(counted) + epsilon)
    else:
        normalized = (counted - moments[0]) / (moments[1] + epsilon)
    return torch.zeros_like(advantages).masked_scatter(mask, normalized)


def scaled(
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 1e-8,
    moments: tuple[float, float] | None = None,
) -> Tensor:
    """A / (std + ε) over the counted steps: `normalize` without subtracting the mean, so that a
    baseline that was subtracted before keeps its effect."""
    check_rows(advantages=advantages, mask=mask)
    deviation = _standard_deviation(advantages[mask]) if moments is None else moments[1]
    return torch.where(mask, advantages / (deviation + epsilon), 0.0)


def _standard_deviation(population: Tensor) -> Tensor:
    """Of [N], with Bessel's correction; 0 for a single number."""
    deviations = _deviations(population[None])
    return (deviations.square().sum() / max(deviations.numel() - 1, 1)).sqrt()


def _counted(terms: Tensor, mask: Tensor | None) -> Tensor:
    """`terms` with 0 where masked; selected, not multiplied, so that a masked NaN has no effect."""
    return terms if mask is None else torch.where(mask, terms, 0.0)


def _continues(episode_end: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T] bool: step t + 1 is in the row, counts, and belongs to the same episode as step t."""
    continues = ~episode_end
    continues[:, -1] = False
    if mask is not None:
        continues[:, :-1] &= mask[:, :-1] & mask[:, 1:]
    return continues


def _discounted_sums(terms: Tensor, continues: Tensor, discount: float | Tensor) -> Tensor:
    """S_t = x_t + discount_t · S_{t+1} while the episode continues, x_t where it does not."""
    columns = []
    next_sum = torch.zeros_like(terms[:, 0])
    for t in reversed(range(terms.shape[1])):
        factor = discount[:, t] if isinstance(discount, Tensor) else discount
        next_sum = terms[:, t] + factor * torch.where(continues[:, t], next_sum, 0.0)
        columns.append(next_sum)
    return torch.stack(columns[::-1], dim=1)


def _groups(scores: Tensor, group_size: int) -> Tensor:
    """[N] -> [N / G, G]."""
    if scores.ndim != 1:
        raise ValueError(f"scores must be [N], one per episode, got {list(scores.shape)}")
    if group_size < 2 or len(scores) % group_size:
        raise ValueError(
            f"group_size must be at least 2 and divide the number of scores ({len(scores)}), "
            f"got {group_size}"
        )
    return scores.reshape(-1, group_size)


def _deviations(rows: Tensor) -> Tensor:
    """x - mean of its row. The first entry is subtracted first, so that equal ones give exactly 0:
    otherwise the division by their std would amplify the rounding of their mean."""
    shifted = rows - rows[:, :1]
    return shifted - shifted.mean(dim=1, keepdim=True)
