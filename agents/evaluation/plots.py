"""Plots of learning, from the CSV files that the logger writes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents import files
from agents.evaluation import aggregates
from agents.evaluation.statistics import interval
from textenv.arguments import as_path
from textenv.optimum import best_of_n_curve
from textenv.optimum import frontier as optimal_frontier
from textenv.shown import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from agents.evaluation.optimum import Attainable

SCORE, KL = "rollout/score_mean", "rollout/kl"
RETURN = "return"  # a column that is computed here, for one β
TOKENS = "time/total_timesteps"
SURE = 1.96  # standard errors of a 95 % interval
SHADE = {"color": "black", "alpha": 0.1, "linewidth": 0}  # of such an interval

Progress = Mapping[str, np.ndarray]  # the log of a run, as `read_progress` gives it


def read_progress(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a ``progress.csv``; missing entries are nan."""
    rows = read_rows(path)
    names = rows[0] if rows else []
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a ``progress.csv``, numbers or empty texts. Half a line at its end, of a process
    that was killed or still writes, is left out; `agents.files.DamagedFile` for anything else."""
    path = as_path(path)
    with files.reading(path):
        text = path.read_bytes().decode("utf-8")
        lines = text.rpartition("\n")[0]
        table = csv.DictReader(io.StringIO(lines, newline=""), strict=True)
        rows = list(table)
        if text and TOKENS not in (table.fieldnames or ()):
            raise ValueError(f"it has no column {TOKENS}")
        for number, row in enumerate(rows, start=2):
            for name, cell in row.items():
                if name is None or cell is None:
                    raise ValueError(f"line {number} has not as many cells as the first one")
                float(cell or "nan")
            if not np.isfinite(float(row[TOKENS])):
                raise ValueError(f"line {number} has no number of timesteps")
        return rows


def on_grid(progress: Progress, column: str, grid: np.ndarray) -> np.ndarray:
    """A column of a run's log at common numbers of timesteps, by linear interpolation."""
    known = ~np.isnan(progress[column])
    return np.interp(grid, progress[TOKENS][known], progress[column][known])


def band(axes, label: str, grid: np.ndarray, curves: np.ndarray) -> None:
    """The mean of several runs' curves ``[runs, points]`` and its 95 % interval around it."""
    (line,) = axes.plot(grid, curves.mean(axis=0), label=label)
    edges = [interval(column) for column in curves.T]
    low, high = [edge.low for edge in edges], [edge.high for edge in edges]
    axes.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def comparison(
    runs: Mapping[str, Sequence[Progress]],
    finals: Mapping[str, list[tuple[float, float]]],
    attainable: Attainable | None,
    target: str | Path,
    title: str = "",
    learning_reach: Attainable | None = None,
) -> None:
    """Several algorithms, several seeds each: return against tokens, and final score against KL.

    Args:
        runs: for each algorithm the logs of its seeds.
        finals: for each algorithm and seed the KL (nats per episode) and the score at the end.
        attainable: of the task, whose β is that of the returns; None shows scores instead.
        target: the file of the plot.
        title: of the plot.
        learning_reach: on the prompts of the learning, if ``finals`` are of others.
    """
    figure, (curves, trade) = panels()
    for label, logs in runs.items():
        steps = [log[TOKENS] for log in logs]
        grid = np.linspace(max(s[0] for s in steps), min(s[-1] for s in steps), 40)
        values = [on_grid(with_return(log, attainable), RETURN, grid) for log in logs]
        band(curves, label, grid, np.array(values))
        trade.scatter(*zip(*finals[label], strict=True), s=22, zorder=3)  # the same colours
    curves.set(xlabel="tokens", ylabel="mean return of a rollout")
    curves.legend(frameon=False, loc="lower right", ncols=2)  # the levels are at the left
    trade.set(xlabel="KL to the reference, nats per episode", ylabel="mean score at the end")
    if attainable is not None:
        draw_levels(curves, learning_reach or attainable)
        draw_plane(trade, attainable, max(kl for pairs in finals.values() for kl, _ in pairs))
    figure.suptitle(title)
    save_figure(figure, target)


def across_tasks(
    results: Mapping[str, Sequence[np.ndarray]], tasks: Sequence[str], target: str | Path
) -> None:
    """Several candidates over several tasks: interquartile means with their intervals, performance
    profiles, and the runs of each task.

    Args:
        results: for each candidate its normalised returns ``[runs]`` in each task.
        tasks: their names, in the same order.
        target: the file of the plot.
    """
    means = {
        name: aggregates.interval(runs, aggregates.interquartile_mean)
        for name, runs in results.items()
    }
    names = sorted(results, key=lambda name: means[name].mean)
    figure, (middle, profiles, each) = panels(3, width=13)
    levels = np.linspace(-0.1, 1.1, 61)
    for place, name in enumerate(names):
        color, about = f"C{place}", means[name]
        middle.plot([about.low, about.high], [place, place], color=color, linewidth=6, alpha=0.3)
        middle.plot(about.mean, place, "o", color=color)
        points = aggregates.profile(results[name], levels)
        profiles.plot(levels, [point.mean for point in points], color=color, label=name)
        for column, runs in enumerate(results[name]):
            offset = column + 0.08 * (place - (len(names) - 1) / 2)
            each.plot(np.full(len(runs), offset), runs, "o", color=color, markersize=4, alpha=0.7)
    middle.set(yticks=range(len(names)), yticklabels=names, xlabel="interquartile mean, all tasks")
    profiles.set(xlabel="share of the way to the optimum", ylabel="runs that are farther")
    lines, labels = profiles.get_legend_handles_labels()
    profiles.legend(lines[::-1], labels[::-1], frameon=False)  # the highest first, as at the left
    each.set(
        xticks=range(len(tasks)), xticklabels=[task.removesuffix("-v0") for task in tasks],
        ylabel="share of the way to the optimum",
    )  # fmt: skip
    each.tick_params(axis="x", rotation=20)
    for axes, line in (
        (middle, middle.axvline),
        (profiles, profiles.axvline),
        (each, each.axhline),
    ):
        for at in (0, 1):
            line(at, color="black", linestyle=":", linewidth=1)
        axes.margins(0.05)
    save_figure(figure, target)


def learning_curve(
    progress: Progress, target: str | Path, title: str = "", attainable: Attainable | None = None
) -> None:
    """One text run: return (or score, without an optimum) against tokens, and score against KL."""
    figure, (curve, trade) = panels()
    draw_returns(curve, {"": progress}, attainable)
    if KL in progress:
        points = trade.scatter(
            progress[KL], progress[SCORE], c=progress[TOKENS], s=14, cmap="viridis", zorder=3
        )
        figure.colorbar(points, ax=trade, label="tokens")
        if attainable is not None:
            draw_plane(trade, attainable, float(progress[KL].max()))
    trade.set(xlabel="KL to the reference, nats per episode", ylabel="mean score of a rollout")
    figure.suptitle(title)
    save_figure(figure, target)


# --- one panel for a page -----------------------------------------------------------------------


def returns_panel(runs: Mapping[str, Progress], attainable: Attainable | None) -> str:
    """Return against tokens, a line for each run, as SVG."""
    figure, axes = panel()
    draw_returns(axes, runs, attainable)
    return as_svg(figure)


def plane_panel(runs: Mapping[str, Progress], attainable: Attainable | None) -> str:
    """The way of each run through the score-KL plane, with its end marked, as SVG."""
    figure, axes = panel()
    kls = []
    for number, (label, progress) in enumerate(runs.items()):
        if KL not in progress:  # as in the log of a model of others, whose colour is left out
            continue
        style = {"color": f"C{number % 10}", "zorder": 3}
        axes.plot(progress[KL], progress[SCORE], ".-", linewidth=1, alpha=0.5, **style)
        end = progress[KL][-1], progress[SCORE][-1]
        axes.plot(*end, "o", markersize=8, label=label, **style | {"zorder": 5})
        kls.append(float(progress[KL].max()))
    axes.set(xlabel="KL to the reference, nats per episode", ylabel="mean score of a rollout")
    if attainable is not None:
        draw_plane(axes, attainable, max(kls))
    return as_svg(figure)


def column_panel(runs: Mapping[str, Progress], column: str, label: str) -> str:
    """One column of the log against tokens, a line for each run that has it, as SVG."""
    figure, axes = panel(3.5, 2.3)
    for number, progress in enumerate(runs.values()):
        if column in progress:  # else its colour is left out
            axes.plot(progress[TOKENS], progress[column], color=f"C{number % 10}")
    axes.set_title(label, fontsize=10, loc="left")
    return as_svg(figure)


def panel(width: float = 4.4, height: float = 3.5):
    """A figure with one pair of axes, of a size, in inches, that can be read on a telephone."""
    figure, (axes,) = panels(1, width, height)
    return figure, axes


def as_svg(figure: Figure) -> str:
    """A figure in the plain style as an SVG element for a page, without a size of its own.

    Its text stays text, in a font of the reader's machine.
    """
    import matplotlib

    styled(figure)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": ""}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r' (width|height)="[0-9.]+pt"', "", svg, count=2)


# --- what can be reached ------------------------------------------------------------------------


def with_return(progress: Progress, attainable: Attainable | None) -> Progress:
    """A log with the return score − β·KL of this β, whichever the rewards of the run had.

    Logs of stable-baselines3 have neither score nor KL, but only the return of the rewards.
    """
    if SCORE not in progress:
        none = np.full(len(progress[TOKENS]), np.nan)  # no episode has ended yet
        return {**progress, RETURN: progress.get("rollout/ep_rew_mean", none)}
    scores = progress[SCORE]
    if attainable is None:
        return {**progress, RETURN: scores}
    return {**progress, RETURN: scores - attainable.kl_coef * progress[KL]}


def draw_returns(axes, runs: Mapping[str, Progress], attainable: Attainable | None) -> None:
    """Return against tokens, a line for each run, with what can be reached."""
    for label, progress in runs.items():
        axes.plot(progress[TOKENS], with_return(progress, attainable)[RETURN], label=label)
    axes.set(xlabel="tokens", ylabel="mean return of a rollout")
    if attainable is not None:
        draw_levels(axes, attainable)


def draw_levels(axes, attainable: Attainable) -> None:
    """Horizontal lines at the optimal return and at those of best-of-n, over tokens."""
    values = {name: attainable.value(point) for name, point in attainable.points().items()}
    # They may be very close to each other, in any order: the highest has its name above it, and the
    # names of the others stand beside each other.
    for place, name in enumerate(sorted(values, key=lambda name: -values[name])):
        style = {"color": "black", "linestyle": "--" if name == "optimum" else ":", "linewidth": 1}
        axes.axhline(values[name], **style)
        if name == "optimum":
            error = SURE * attainable.optimum.standard_error
            axes.axhspan(values[name] - error, values[name] + error, **SHADE)
        axes.annotate(
            f"{name}, {values[name]:z.2f}", (0.01 + 0.3 * max(place - 1, 0), values[name]),
            xycoords=("axes fraction", "data"), fontsize=8, va="top" if place else "bottom",
            xytext=(0, -2 if place else 1), textcoords="offset points",
        )  # fmt: skip
    axes.set(ylabel=f"mean return = score − {attainable.kl_coef:g}·KL")
    axes.margins(y=0.1)


def draw_plane(axes, attainable: Attainable, largest_kl: float) -> None:
    """The score-KL plane: the optimal frontier, best-of-n, and lines of equal return.

    Nothing can be above the frontier, which is an estimate, with a band of its sampling error. At a
    given KL it is min_β [J*(β) + β·KL], so that its error is that of J* there. A point's return is
    where the line of equal return through it meets the left edge; the optimum is where such a line
    touches the frontier.
    """
    kl_coef, optimum = attainable.kl_coef, attainable.optimum
    right = 1.08 * max(largest_kl, optimum.kl)
    betas = kl_coef * np.geomspace(30, 0.2, 40)
    # Of a game that was planned the samples say what who knows the secret could reach.
    betas = betas[:0] if attainable.planned else betas
    frontier = [p for p in optimal_frontier(attainable.scores, betas) if p.kl < right]
    kls, scores = np.array([(p.kl, p.score) for p in frontier]).reshape(-1, 2).T
    errors = SURE * np.array([p.standard_error for p in frontier])
    axes.plot(kls, scores, color="black", linewidth=1.2)
    axes.fill_between(kls, scores - errors, scores + errors, **SHADE)
    if frontier:
        name = "upper bound" if attainable.is_dialogue else "optimal frontier"
        label = (name, (frontier[-1].kl, frontier[-1].score))
        axes.annotate(
            *label, fontsize=8, ha="right", va="bottom", xytext=(-6, 6), textcoords="offset points"
        )
    ns = [] if attainable.planned else range(1, min(optimum.samples, 64) + 1)
    best = [p for p in best_of_n_curve(attainable.scores, ns) if p.kl < right]
    axes.plot([p.kl for p in best], [p.score for p in best], "k:", linewidth=1)
    for point in best[1:]:
        if point.n.bit_count() == 1:  # powers of two
            axes.plot(point.kl, point.score, "k.", markersize=5)
            axes.annotate(
                f"best of {point.n}", (point.kl, point.score), textcoords="offset points",
                xytext=(4, -9), fontsize=7,
            )  # fmt: skip
    axes.plot(optimum.kl, optimum.score, "k*", markersize=11, zorder=4)
    low, high = axes.get_ylim()
    step = max(0.1, round((high - low) / 10, 1))
    for value in np.arange(np.floor(optimum.value / step) * step, low - kl_coef * right, -step):
        axes.plot([0, right], [value, value + kl_coef * right], color="0.85", linewidth=0.7)
    axes.plot([0, right], [optimum.value, optimum.value + kl_coef * right], "k--", linewidth=0.7)
    axes.set(xlim=(0, right), ylim=(low, max(high, optimum.score + 0.1)))


def panels(count: int = 2, width: float = 11, height: float = 4.4):
    """A figure of a size in inches, and its pairs of axes, beside each other, on which numbers of
    six digits have room."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    every = figure.subplots(1, count, squeeze=False)[0]
    for axes in every:
        axes.locator_params(axis="x", nbins=5)
    return figure, every


def save_figure(figure: Figure, target: str | Path) -> Path:
    """Write a plot in the plain style as a PNG, whose folder is made; returns its path."""
    styled(figure)
    target = as_path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing_file(target) as new:
        figure.savefig(new, format=target.suffix[1:] or "png", dpi=130)
    return target


def styled(figure: Figure) -> None:
    """Set the plain style: a grid, no frame at the top and right, legends for labels, a marker for
    a line of one point; and show all texts as they are, in which a ``$`` is no formula, except the
    powers at a logarithmic axis."""
    from matplotlib.text import Text

    powers = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() != "linear":
                powers.update(axis.get_ticklabels(which="both"))
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for line in axes.lines:  # of a single point nothing would be seen
            if np.size(line.get_xdata()) == 1 and line.get_marker() == "None":
                line.set_marker("o")
        if axes.get_legend() is None and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    for text in {*figure.findobj(Text)} - powers:
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
