"""What the command line prints: tables of evaluations and samples of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from rich.markup import escape
from rich.table import Table

from agents.evaluation import TextEvaluation, mean_and_error
from agents.progress import console
from agents.reference import WithinReach
from agents.runs.recorder import sample_line
from agents.statistics import all_differences, interval
from textenv.optimum import BestOf, Optimum, best_of_n_curve

SAMPLES = 5


def print_evaluations(
    columns: Mapping[str, TextEvaluation], within_reach: WithinReach | None
) -> None:
    """Print a table with a column for each evaluation, and samples of each."""
    console.print(evaluation_table(columns, within_reach))
    if within_reach is not None and within_reach.optimum.warning:
        console.print(f"[yellow]{within_reach.optimum.warning}[/]", soft_wrap=True)
    for name, evaluation in columns.items():
        print_samples(name, evaluation)


def evaluation_table(
    columns: Mapping[str, TextEvaluation], within_reach: WithinReach | None = None
) -> Table:
    """Return, score, KL, length, diversity and speed of each evaluation.

    Args:
        columns: the evaluations.
        within_reach: best-of-n and the optimum, as further columns.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    points = within_reach.points() if within_reach is not None else {}
    for name in (*columns, *(name.replace(" of", "\nof") for name in points)):
        table.add_column(name, justify="right", no_wrap=True)

    def row(
        label: str,
        cell: Callable[[TextEvaluation], str],
        of_point: Callable[[BestOf | Optimum], str] = lambda point: "",
    ) -> None:
        cells = [cell(column) for column in columns.values()]
        table.add_row(label, *cells, *(of_point(point) for point in points.values()))

    shaped = all(len(evaluation.kls) for evaluation in columns.values())
    if within_reach is not None:
        value, share = within_reach.value, within_reach.optimum.share
        row(
            f"[bold]return = score − {within_reach.kl_coef:g}·KL[/]",
            lambda e: with_error(e.returns),
            lambda point: f"{value(point):+.3f}",
        )
        row(
            "  share of the way",
            lambda e: percentage(share(e.returns.mean())),
            lambda point: percentage(share(value(point))),
        )
    row("score", lambda e: with_error(e.scores), lambda point: f"{point.score:+.3f}")
    if shaped:
        row(
            "KL, nats per episode",
            lambda e: f"{e.kls.mean():z.2f}",
            lambda point: f"{point.kl:z.2f}",
        )
        row("  recomputed plainly", recomputed)
    row("length, tokens", lambda e: f"{e.lengths.mean():.1f}")
    row("distinct-2", lambda e: f"{e.distinct_2:.2f}")
    row("tokens/s", lambda e: f"{e.tokens_per_second:.0f}")
    return table


def recomputed(evaluation: TextEvaluation) -> str:
    """The mean of the recomputed KL, where there is one."""
    kls = evaluation.recomputed_kls
    return f"{kls.mean():z.2f}" if len(kls) else ""


def percentage(share: float) -> str:
    """A share in percent; nothing for nan."""
    return "" if np.isnan(share) else f"{share:z.0%}"


def with_error(values: np.ndarray) -> str:
    """The mean and its standard error, which a single value does not have."""
    summary = mean_and_error(values)
    error = summary["standard_error"]
    return f"{summary['mean']:+.3f}" + ("" if error is None else f" ± {error:.3f}")


def print_samples(name: str, evaluation: TextEvaluation) -> None:
    """The first few episodes, each with its score."""
    console.print(f"\n[bold]{escape(name)}[/]")
    episodes = list(zip(evaluation.scores, evaluation.prompts, evaluation.responses, strict=True))
    for score, prompt, response in episodes[:SAMPLES]:
        console.print(sample_line(score, prompt, response), soft_wrap=True)


def print_comparison(
    finals: Mapping[str, list[dict[str, float]]], within_reach: WithinReach | None
) -> None:
    """A table of candidates by return, with what can be reached, and which of them differ.

    Args:
        finals: for each candidate the summaries of its runs, one per seed.
        within_reach: its β is that of all returns; None judges by the score.
    """
    kl_coef = 0.0 if within_reach is None else within_reach.kl_coef
    returns = {
        name: [final["score"] - kl_coef * final["kl"] for final in finals[name]] for name in finals
    }
    rows = [
        (float(np.mean(returns[name])), candidate_row(name, finals[name], returns[name]))
        for name in finals
    ]
    if within_reach is not None:
        rows += reach_rows(within_reach)
    rows.sort(key=lambda row: -row[0])
    table = Table(box=None, pad_edge=False)
    for heading in ("", "return", "share", "score", "KL", "tokens", "distinct-2"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for value, (name, first, *others) in rows:
        share = "" if within_reach is None else percentage(within_reach.optimum.share(value))
        table.add_row(name, first, share, *others)
    console.print(table)
    console.print(
        f"\nreturn = score − {kl_coef:g}·KL, mean and 95 % interval over seeds; share: of the way "
        "from the untouched model to the optimum; KL: nats per episode; tokens: of a response.",
        soft_wrap=True,
    )
    if within_reach is not None and within_reach.optimum.warning:
        console.print(f"[yellow]{within_reach.optimum.warning}[/]", soft_wrap=True)
    print_differences(returns)


def print_differences(returns: Mapping[str, list[float]]) -> None:
    """The pairs of candidates whose returns differ, by how much, and how sure that is."""
    differences = all_differences(returns)
    apart = [one for one in differences if one.p_value < 0.05]
    console.print(
        "\nwhat differs (Games-Howell, 95 % for all pairs together):"
        if apart
        else "\nno two of them differ (Games-Howell, 95 % for all pairs together)"
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    for one in apart:
        table.add_row(
            f"  {one.better} over {one.worse}",
            escape(f"{one.interval.mean:+.3f} [{one.interval.low:+.3f}, {one.interval.high:+.3f}]"),
            f"p = {one.p_value:.2g}",
        )  # fmt: skip
    if apart:
        console.print(table)


def candidate_row(
    name: str, finals: list[dict[str, float]], returns: list[float]
) -> tuple[str, ...]:
    """The cells of one candidate: means over its runs, that of the return with its interval."""
    means = {key: float(np.mean([final[key] for final in finals])) for key in finals[0]}
    plain = [f"{means[key]:.3g}" for key in ("score", "kl", "length", "distinct_2")]
    return name, escape(str(interval(returns))), *plain


def reach_rows(within_reach: WithinReach) -> list[tuple[float, tuple[str, ...]]]:
    """Return and cells of the untouched model, of best-of-n, and of the optimum."""
    points = {
        "untouched": best_of_n_curve(within_reach.scores, [1])[0],
        **within_reach.points(),
    }
    return [
        (value, tuple(f"[dim]{cell}[/]" for cell in (name, *map("{:.3g}".format, numbers))))
        for name, point in points.items()
        for value in [within_reach.value(point)]
        for numbers in [(value, point.score, point.kl)]
    ]
