"""How right a judge of pairs is: the share of agreement, and the calibration of its confidence."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from agents.evaluation.plots import save_figure
from agents.evaluation.statistics import Interval


@dataclass(frozen=True)
class Calibration:
    """How often the preferred response was the one that a model gave a certain probability, in each
    of K bins that are not empty."""

    predicted: np.ndarray  # the mean σ(|Δr|), from 0.5 to 1
    observed: np.ndarray  # the share of the pairs in which the label agrees
    counts: np.ndarray  # the number of pairs


def calibration(differences: np.ndarray, bins: int = 10) -> Calibration:
    """The calibration of r_chosen − r_rejected ``[N]`` on held-out pairs."""
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    used = np.unique(place)
    means = [(confidence[place == k].mean(), (differences[place == k] > 0).mean()) for k in used]
    predicted, observed = np.array(means).reshape(-1, 2).T
    return Calibration(predicted, observed, np.bincount(place)[used])


def agreement(differences: np.ndarray) -> Interval:
    """The share of pairs whose chosen response scores higher, with its 95 % Wilson interval.

    Equal scores count as wrong.
    """
    right, count = int((differences > 0).sum()), len(differences)
    bounds = binomtest(right, count).proportion_ci(method="wilson")
    return Interval(right / count, float(bounds.low), float(bounds.high))


def draw_calibration(curve: Calibration, target: str | Path) -> None:
    """How often a reward model's preferred response was preferred, against its own probability."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="gray", linewidth=1, linestyle="--", label="calibrated")
    error = np.sqrt(np.maximum(curve.observed * (1 - curve.observed), 0.01) / curve.counts)
    axes.errorbar(curve.predicted, curve.observed, 1.96 * error, fmt="o-", capsize=3)
    axes.set(
        xlabel="probability of the preferred response, by the model",
        ylabel="share of pairs where it was preferred",
        ylim=(0, 1.05),
        title=f"Calibration on {curve.counts.sum()} held-out pairs",
    )
    axes.legend(loc="lower right")
    save_figure(figure, target)
