"""What every policy offers to agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class ActionDistribution(Protocol):
    """The distributions of a batch's counted steps (`agents.policies.distributions`)."""

    def kl(self, other: Any) -> Tensor: ...

    def detach(self) -> Any: ...


@dataclass
class Evaluation:
    """A batch of steps as the current weights see them, with gradients; each ``[B, T]``.

    Attributes:
        log_probs: log π(a_t|s_t), nats.
        values: V(s_t), units of the return.
        entropy: of π(·|s_t), nats; None unless it was asked for.
        distribution: the distributions themselves, for a KL over all actions.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor | None
    distribution: ActionDistribution
