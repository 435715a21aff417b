"""Numbers for the log, under the names of stable-baselines3."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.rollout import Rollout

NAMES = {"return": "ep_rew_mean", "length": "ep_len_mean", "score": "score_mean", "kl": "kl"}


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Means over the episodes that ended in a rollout."""
    means = {
        f"rollout/{name}": float(np.mean(rollout.episodes[key]))
        for key, name in NAMES.items()
        if rollout.episodes.get(key)
    }
    if rollout.log_prob_mismatch is not None:
        mean = rollout.log_prob_mismatch.sum() / rollout.mask.sum()
        means["rollout/log_prob_mismatch"] = float(mean)
    return means


def mean_metrics(metrics: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over optimiser steps; of the KL to π_old the first one as well.

    Before the first step π is π_old, so a ``first_approx_kl`` other than 0 is a fault, or rounding.
    """
    means = {name: sum(entry[name] for entry in metrics) / len(metrics) for name in metrics[0]}
    if "approx_kl" in means:
        means["first_approx_kl"] = metrics[0]["approx_kl"]
    return means


def prefixed(prefix: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics with ``prefix/`` before their names."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}
