"""Pictures of learning, out of the CSV files that the logger writes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def read_progress(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a ``progress.csv``; missing entries are nan."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0] if rows else []
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def learning_curve(runs: Mapping[str, str | Path], target: str | Path, title: str = "") -> None:
    """Score and KL against tokens, one line a run, as a PNG.

    Args:
        runs: labels and the ``progress.csv`` files of text runs.
        target: where the picture goes.
        title: above it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    score, kl = figure.subplots(1, 2)
    for label, path in runs.items():
        progress = read_progress(path)
        tokens = progress["time/total_timesteps"]
        score.plot(tokens, progress["rollout/score_mean"], label=label)
        if "rollout/kl" in progress:
            kl.plot(tokens, progress["rollout/kl"], label=label)
    score.set(xlabel="tokens", ylabel="mean score of a rollout")
    kl.set(xlabel="tokens", ylabel="KL to the reference, nats per episode")
    for axes in (score, kl):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1:
        score.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(target, dpi=130)
