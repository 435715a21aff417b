"""What the command line prints: tables of evaluations and samples of text."""

from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from agents.evaluation import TextEvaluation
from agents.evaluation.comparison import Comparison
from agents.evaluation.optimum import Attainable
from agents.evaluation.results import with_error
from agents.evaluation.statistics import Difference
from agents.runs.recorder import sample_line
from agents.training.console import console, text_of
from textenv.optimum import BestOf, Optimum, best_of_n_curve

SAMPLES = 5
WIDEST = 1000  # columns of a terminal
MANY = 12  # differences, beyond which each is only in the file


def print_evaluations(columns: Mapping[str, TextEvaluation], attainable: Attainable | None) -> None:
    """Print a table with a column for each evaluation, and samples of each."""
    print_uncut(evaluation_table(columns, attainable))
    if attainable is not None and attainable.optimum.warning:
        console.say((attainable.optimum.warning, "yellow"))
    for name, evaluation in columns.items():
        print_samples(name, evaluation)


def print_uncut(table: Table) -> None:
    """Print a table of which no heading and no number is cut: where it is too wide, its columns
    come closer, and lines that are still too long are left to the terminal. A first column with a
    smallest width is folded to it."""

    def width() -> int:
        first = table.columns[0]
        first.width = first.min_width
        found = Measurement.get(console, console.options.update(width=WIDEST), table).maximum
        first.width = None
        return found

    if width() > console.width:
        table.collapse_padding = True
        table.width = max(width(), console.width)
    console.print(table, crop=False)


def evaluation_table(
    columns: Mapping[str, TextEvaluation], attainable: Attainable | None = None
) -> Table:
    """Return, score, KL, length, diversity and speed of each evaluation."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    points = attainable.points() if attainable is not None else {}
    for name in (*columns, *(name.replace(" of", "\nof") for name in points)):
        table.add_column(name, justify="right", no_wrap=True)

    def row(
        label: str | Text,
        cell: Callable[[TextEvaluation], str],
        of_point: Callable[[BestOf | Optimum], str] = lambda point: "",
    ) -> None:
        cells = [cell(column) for column in columns.values()]
        table.add_row(label, *cells, *(of_point(point) for point in points.values()))

    shaped = all(len(evaluation.kls) for evaluation in columns.values())
    if attainable is not None:
        value, share = attainable.value, attainable.optimum.share
        row(
            text_of((f"return = score − {attainable.kl_coef:g}·KL", "bold")),
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
    """The mean of the recomputed KL, where there is one; of some episodes beside what it was."""
    kls, every = evaluation.recomputed_kls, evaluation.kls
    if len(kls) == 0:
        return ""
    before = "" if len(kls) == len(every) else f" for {every[: len(kls)].mean():z.2f}"
    return f"{kls.mean():z.2f}{before}"


def percentage(share: float) -> str:
    """A share in percent; nothing for nan."""
    return "" if np.isnan(share) else f"{share:z.0%}"


def print_samples(name: str, evaluation: TextEvaluation) -> None:
    """The first few episodes, each with its score."""
    console.say("\n", (name, "bold"))
    episodes = list(zip(evaluation.scores, evaluation.prompts, evaluation.responses, strict=True))
    for score, prompt, response in episodes[:SAMPLES]:
        console.say(*sample_line(score, prompt, response))


def print_comparison(found: Comparison, task: str) -> None:
    """A table of a task's candidates by return, with what can be reached, and which differ."""
    reach, summary = found.attainable.get(task), found.summary()
    rows = [
        (row["return"], candidate_row(row), row["share"])
        for _, row in summary[summary["task"] == task].iterrows()
    ]
    if reach is not None:
        shown = {name.replace("-", " ") for name in summary["candidate"]}
        rows += reach_rows(reach, shown)
    rows.sort(key=lambda row: -row[0] if np.isfinite(row[0]) else np.inf)
    table = Table(box=None, pad_edge=False)
    table.add_column("", min_width=12, overflow="fold")
    for heading in ("return", "share", "score", "KL", "tokens", "dist-2"):
        table.add_column(heading, justify="right", no_wrap=True)
    for _, (name, first, *others), share in rows:
        table.add_row(name, first, percentage(share), *others)
    print_uncut(table)
    kl_coef = "" if reach is None else f"{reach.kl_coef:g}"
    console.say(
        f"\nreturn = score − {kl_coef or 'β'}·KL, mean and 95 % interval over seeds; share: of the "
        "way from the untouched model to the optimum; KL: nats per episode; tokens: sampled for a "
        "response; dist-2: distinct-2."
    )
    if reach is not None and reach.optimum.warning:
        console.say((reach.optimum.warning, "yellow"))
    names = list(summary[summary["task"] == task]["candidate"])
    print_differences(found.differences[task], names)


def print_differences(differences: list[Difference], names: list[str]) -> None:
    """Which candidates differ in return: by how much, or, of many, which ones."""
    apart = [one for one in differences if one.p_value < 0.05]
    how = "(Games-Howell, 95 % for all pairs together)"
    console.say(f"\nwhat differs {how}:" if apart else f"\nno two of them differ {how}")
    if len(apart) > MANY:
        for name in names:
            above = [one.worse for one in apart if one.better == name]
            if above:
                console.say(f"  {name} over {', '.join(above)}")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold", min_width=12)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for one in apart:
        table.add_row(
            f"  {one.better} over {one.worse}",
            f"{one.interval.mean:+.3f} [{one.interval.low:+.3f}, {one.interval.high:+.3f}]",
            f"p = {one.p_value:.2g}",
        )  # fmt: skip
    if apart:
        print_uncut(table)


def candidate_row(row: Any) -> tuple[str, ...]:
    """The cells of one candidate, from its row of `Comparison.summary`."""
    formats = {"score": "z.3f", "kl": "z.2f", "tokens_per_answer": ".1f", "distinct_2": ".2f"}
    plain = ["" if np.isnan(row[key]) else format(row[key], how) for key, how in formats.items()]
    numbers = "{return:z.3f} [{return_low:z.3f}, {return_high:z.3f}]".format(**row)
    first = numbers if np.isfinite(row["return"]) else ""
    return row["candidate"], first, *plain


def reach_rows(
    attainable: Attainable, shown: Container[str]
) -> list[tuple[float, tuple[Any, ...], float]]:
    """Return, cells and share of the untouched model, of best-of-n, and of the optimum."""
    points = {
        "untouched": best_of_n_curve(attainable.scores, [1])[0],
        **attainable.points(),
    }
    rows = []
    for name, point in points.items():
        if name not in shown:
            value = attainable.value(point)
            cells = name, f"{value:z.3f}", f"{point.score:z.3f}", f"{point.kl:z.3f}"
            dim = tuple(text_of((cell, "dim")) for cell in cells)
            rows.append((value, dim, attainable.optimum.share(value)))
    return rows
