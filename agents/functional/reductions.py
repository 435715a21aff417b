"""How per-step losses [B, T] become one number.

| | weight of a step | used by |
|---|---|---|
| `token_mean` | the same for all steps of the batch | PPO; DAPO (Yu et al. 2025, §3.3) |
| `sequence_mean` | 1 / length of its sequence | GRPO (Shao et al. 2024, eq. 3) |
| `sequence_sum` | 1 | REINFORCE (Williams 1992), Σ_t inside the expectation over trajectories |
| `constant_length` | 1 / a constant | Dr. GRPO (Liu et al. 2025, §3.2) |

`mask` [B, T] bool is True where a step counts. A sequence is a row with at least one such step, so
a row that is only padding changes nothing. Masked losses are left out, not multiplied by 0.

`counts` is for gradient accumulation: given the `Counts` of the *whole* optimiser step, the results
of its micro-batches add up to the result of the whole, whatever their sizes. None counts the
given steps; if there are none, the result is NaN. A custom reduction takes the same three
arguments.

Results are scalars in units of the loss; gradients flow into `losses`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from agents.functional._shapes import check_rows


class Counts(NamedTuple):
    """The counts of a whole optimiser step, of which a tensor may have only a part."""

    steps: float  # that count
    episodes: float  # or the parts of them in the rollout: sequences, if each row is one


def token_mean(losses: Tensor, mask: Tensor, counts: Counts | None = None) -> Tensor:
    """Sum over counted steps / number of counted steps."""
    sums = _row_sums(losses, mask)
    return sums.sum() / (mask.sum() if counts is None else counts.steps)


def sequence_mean(losses: Tensor, mask: Tensor, counts: Counts | None = None) -> Tensor:
    """Mean over the steps of each sequence, then over sequences."""
    sums = _row_sums(losses, mask)
    lengths = mask.sum(dim=1).clamp(min=1)  # a row without steps adds 0 / 1
    return (sums / lengths).sum() / _episodes(mask, counts)


def sequence_sum(losses: Tensor, mask: Tensor, counts: Counts | None = None) -> Tensor:
    """Sum over the steps of each episode, then the mean over episodes."""
    sums = _row_sums(losses, mask)
    return sums.sum() / _episodes(mask, counts)


def constant_length(
    losses: Tensor, mask: Tensor, counts: Counts | None = None, *, length: float
) -> Tensor:
    """`sequence_sum` / `length`, a constant such as the token budget."""
    return sequence_sum(losses, mask, counts) / length


def _row_sums(losses: Tensor, mask: Tensor) -> Tensor:
    check_rows(losses=losses, mask=mask)
    return torch.where(mask, losses, 0.0).sum(dim=1)


def _episodes(mask: Tensor, counts: Counts | None) -> Tensor | float:
    return mask.any(dim=1).sum() if counts is None else counts.episodes
