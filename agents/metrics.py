"""Metrics for the log, with the names of stable-baselines3."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from stable_baselines3.common.logger import Logger

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
    """The mean of each metric over optimiser steps; of the KL to π_old also the first value.

    Before the first step π is π_old, so a ``first_approx_kl`` other than 0 is an error or rounding.
    """
    means = {name: sum(entry[name] for entry in metrics) / len(metrics) for name in metrics[0]}
    if "approx_kl" in means:
        means["first_approx_kl"] = metrics[0]["approx_kl"]
    return means


def log_entry(rollout: Rollout, **groups: Mapping[str, float]) -> dict[str, float]:
    """`rollout_metrics`, and the metrics of each group as ``group/name``."""
    entry = rollout_metrics(rollout)
    for group, metrics in groups.items():
        entry |= {f"{group}/{name}": value for name, value in metrics.items()}
    return entry


def record_all(logger: Logger, entry: Mapping[str, float]) -> None:
    """Pass an entry of the log to a logger of stable-baselines3."""
    for name, value in entry.items():
        logger.record(name, value)
