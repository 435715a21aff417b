"""Schedules of β, the price of a nat of KL.

An episode keeps the β with which it began. Whoever collects rollouts moves a schedule, once after
each of them (`agents.Agent` does); neither the environment nor an evaluation ever moves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """A KL coefficient: ``value`` is read as episodes begin, ``update`` moves it."""

    value: float

    def update(self, kl: float, num_episodes: int) -> None:
        """Take account of a rollout: the mean KL of its episodes, nats, and their number."""


@dataclass
class FixedKL:
    """A KL coefficient that stays as it is."""

    value: float

    def update(self, kl: float, num_episodes: int) -> None:
        """Nothing moves."""


@dataclass
class AdaptiveKL:
    """β that steers the KL of an episode towards a target (Ziegler et al. 2019, section 2.2).

        e = clip(KL / target − 1, −0.2, 0.2);   β ← β · (1 + e · n / horizon)

    Args:
        target: KL of a whole episode (the sum over its tokens), in nats. **Per sequence**, as in
            the paper; some libraries mean per token.
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

    def as_data(self) -> dict[str, float]:
        """The arguments, as `resolve_schedule` takes them."""
        return {"target": self.target, "horizon": self.horizon, "initial": self.initial}

    def update(self, kl: float, num_episodes: int) -> None:
        """Take account of ``num_episodes`` ended episodes whose mean KL is ``kl`` nats."""
        if 0.2 * num_episodes >= self.horizon:
            raise ValueError(
                f"AdaptiveKL(horizon={self.horizon}) is too short for {num_episodes} episodes at "
                "once, which could turn β negative: take at least ten times as many."
            )
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * num_episodes / self.horizon


def resolve_schedule(kl_coef: Any) -> Schedule:
    """The schedule of a number, of a mapping of `AdaptiveKL`'s arguments, or of itself.

    Raises:
        ValueError: it is none of these.
    """
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
    if isinstance(kl_coef, Schedule):
        return kl_coef
    raise ValueError(
        f"kl_coef={kl_coef!r} is neither a number nor a schedule with value and update, such as "
        "textenv.AdaptiveKL."
    )
