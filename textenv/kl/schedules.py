"""Schedules of β, the coefficient of the KL.

An episode keeps the β with which it began. The code that collects rollouts updates a
schedule once after each rollout (`agents.Agent` does this); the environment and evaluations never
update it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class KLSchedule(Protocol):
    """A KL coefficient: ``value`` is read when episodes begin, ``update`` changes it."""

    value: float

    def update(self, kl: float, num_episodes: int) -> None:
        """Update from a rollout: the mean KL of its episodes in nats, and their number."""


@dataclass
class FixedKL:
    """A constant KL coefficient."""

    value: float

    def update(self, kl: float, num_episodes: int) -> None:
        """Do nothing: the coefficient is constant."""


@dataclass
class AdaptiveKL:
    """A β that moves the KL of an episode towards a target (Ziegler et al. 2019, section 2.2).

        e = clip(KL / target − 1, −0.2, 0.2);   β ← β · (1 + e · n / horizon)

    Args:
        target: KL of a whole episode (the sum over its tokens), in nats. **Per sequence**, as in
            the paper; some libraries use the KL per token.
        horizon: episodes over which β can change by a factor of about 1.2.
        initial: β at the start.
    """

    target: float = 6.0
    horizon: float = 10_000
    initial: float = 0.2
    value: float = field(init=False)

    def __post_init__(self):
        if not (self.target > 0 and self.horizon > 0 and self.initial > 0):
            raise ValueError(
                f"AdaptiveKL(target={self.target}, horizon={self.horizon}, initial={self.initial}):"
                " all three must be above 0."
            )
        self.value = self.initial

    def as_data(self) -> dict[str, float] | AdaptiveKL:
        """The arguments, as `resolve_schedule` accepts them; itself if it is of a subclass."""
        if type(self) is not AdaptiveKL:  # which may do something else
            return self
        return {"target": self.target, "horizon": self.horizon, "initial": self.initial}

    def update(self, kl: float, num_episodes: int) -> None:
        """Update from ``num_episodes`` ended episodes whose mean KL is ``kl`` nats."""
        if 0.2 * num_episodes >= self.horizon:
            raise ValueError(
                f"AdaptiveKL(horizon={self.horizon}) is too short for {num_episodes} episodes at "
                "once, which could make β negative: use at least ten times that number."
            )
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * num_episodes / self.horizon


def resolve_schedule(kl_coef: Any) -> KLSchedule:
    """Make a schedule from a number or from `AdaptiveKL`'s arguments; a schedule stays as it is."""
    if isinstance(kl_coef, Real):
        value = float(kl_coef)
        if not 0 <= value < math.inf:
            raise ValueError(f"kl_coef={kl_coef!r} must be a finite number of at least 0.")
        return FixedKL(value)
    if isinstance(kl_coef, Mapping):
        try:
            return AdaptiveKL(**kl_coef)
        except TypeError as error:
            raise ValueError(
                f"kl_coef={dict(kl_coef)!r} does not fit AdaptiveKL(target, horizon, initial)."
            ) from error
    if isinstance(kl_coef, KLSchedule):
        return kl_coef
    raise ValueError(
        f"kl_coef={kl_coef!r} is neither a number nor a schedule with value and update, such as "
        "textenv.AdaptiveKL."
    )
