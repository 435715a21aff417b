"""Plots of learning, from the CSV files that the logger writes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.compare import interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE, KL = "rollout/score_mean", "rollout/kl"


def read_progress(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a ``progress.csv``; missing entries are nan."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0] if rows else []
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def on_grid(progress: Mapping[str, np.ndarray], column: str, grid: np.ndarray) -> np.ndarray:
    """A column of a run's log at common numbers of timesteps, by linear interpolation."""
    known = ~np.isnan(progress[column])
    return np.interp(grid, progress["time/total_timesteps"][known], progress[column][known])


def band(axes, label: str, grid: np.ndarray, curves: np.ndarray) -> None:
    """The mean of several runs' curves ``[runs, points]`` and its 95 % interval around it."""
    (line,) = axes.plot(grid, curves.mean(axis=0), label=label)
    edges = [interval(column) for column in curves.T]
    low, high = [edge.low for edge in edges], [edge.high for edge in edges]
    axes.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def comparison(
    runs: Mapping[str, list[dict[str, np.ndarray]]],
    finals: Mapping[str, list[tuple[float, float]]],
    target: str | Path,
    title: str = "",
) -> None:
    """Several algorithms, several seeds each: score against tokens, final score against KL.

    Args:
        runs: for each algorithm the logs of its seeds, as `read_progress` gives them.
        finals: for each algorithm and seed the KL (nats per episode) and the score at the end.
        target: the file of the plot.
        title: the title of the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    score, trade = figure.subplots(1, 2)
    for label, logs in runs.items():
        steps = [log["time/total_timesteps"] for log in logs]
        grid = np.linspace(max(s[0] for s in steps), min(s[-1] for s in steps), 40)
        band(score, label, grid, np.array([on_grid(log, SCORE, grid) for log in logs]))
        trade.scatter(*zip(*finals[label], strict=True), s=22, label=label)
    score.set(xlabel="tokens", ylabel="mean score of a rollout")
    trade.set(xlabel="KL to the reference, nats per episode", ylabel="final mean score")
    figure.suptitle(title)
    save_figure(figure, target)


def learning_curve(runs: Mapping[str, str | Path], target: str | Path, title: str = "") -> None:
    """Score and KL against tokens, one line per run, as a PNG.

    Args:
        runs: labels and the ``progress.csv`` files of text runs.
        target: the file of the plot.
        title: the title of the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    score, kl = figure.subplots(1, 2)
    for label, path in runs.items():
        progress = read_progress(path)
        tokens = progress["time/total_timesteps"]
        name = label if len(runs) > 1 else None  # a single line needs no legend
        score.plot(tokens, progress[SCORE], label=name)
        if KL in progress:
            kl.plot(tokens, progress[KL], label=name)
    score.set(xlabel="tokens", ylabel="mean score of a rollout")
    kl.set(xlabel="tokens", ylabel="KL to the reference, nats per episode")
    figure.suptitle(title)
    save_figure(figure, target)


def save_figure(figure: Figure, target: str | Path) -> Path:
    """Write a plot in a plain style: a grid, no frame at the top and right, legends for labels.

    Args:
        figure: the style of its axes is set here.
        target: the PNG, which is returned as a path; its folder is made.
    """
    for axes in figure.axes:
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend() is None and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)
    return target
