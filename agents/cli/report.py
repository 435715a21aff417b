"""What the command line prints: tables of evaluations and samples of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.compare import interval, significant_differences
from agents.evaluation import TextEvaluation

console = Console(highlight=False)
SAMPLES = 5


def print_evaluations(**columns: TextEvaluation) -> None:
    """Print a table with a column for each evaluation, and samples of each."""
    console.print(evaluation_table(columns))
    for name, evaluation in columns.items():
        print_samples(name, evaluation)


def evaluation_table(columns: Mapping[str, TextEvaluation]) -> Table:
    """Score, KL, length, diversity and speed of each evaluation."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")

    def row(label: str, cell: Callable[[TextEvaluation], str]) -> None:
        table.add_row(label, *(cell(column) for column in columns.values()))

    row("score (mean ± standard error)", lambda e: mean_and_error(e.scores))
    if all(len(evaluation.kls) for evaluation in columns.values()):
        row("KL to the reference, nats per episode", lambda e: f"{e.kls.mean():z.2f}")
        row("  recomputed by plain forward passes", lambda e: f"{e.recomputed_kls.mean():z.2f}")
    row("length, tokens", lambda e: f"{e.lengths.mean():.1f}")
    row("distinct-2", lambda e: f"{e.distinct_2:.2f}")
    row("tokens/s, sampling and scoring", lambda e: f"{e.tokens_per_second:.0f}")
    return table


def mean_and_error(values: np.ndarray) -> str:
    """The mean and its standard error, which a single value does not have."""
    if len(values) < 2:
        return f"{values.mean():+.3f}"
    return f"{values.mean():+.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"


def print_samples(name: str, evaluation: TextEvaluation) -> None:
    """The first few episodes, each with its score."""
    console.print(f"\n[bold]{escape(name)}[/]")
    episodes = list(zip(evaluation.scores, evaluation.prompts, evaluation.responses, strict=True))
    for score, prompt, response in episodes[:SAMPLES]:
        text = f"[dim]{escape(prompt)}[/]{escape(response.replace(chr(10), '⏎'))}"
        console.print(f"  [dim]{score:+.2f}[/]  {text}", soft_wrap=True)


def print_comparison(finals: Mapping[str, list[dict[str, float]]]) -> None:
    """A table of candidates, and which of them differ.

    Args:
        finals: for each candidate the summaries of its runs, one per seed.
    """
    table = Table(box=None, pad_edge=False)
    for heading in ("", "score", "KL, nats", "length", "distinct-2"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    scores = {name: [final["score"] for final in finals[name]] for name in finals}
    for name in sorted(finals, key=lambda name: -sum(scores[name])):
        means = {key: interval([final[key] for final in finals[name]]) for key in finals[name][0]}
        bounds = [escape(str(means[key])) for key in ("score", "kl")]
        plain = [f"{means[key].mean:.3g}" for key in ("length", "distinct_2")]
        table.add_row(name, *bounds, *plain)
    console.print(table)
    console.print("\nscores significantly apart (Welch's t-test, Holm's correction, 5 %):")
    differences = significant_differences(scores)
    for better, worse, p in differences:
        console.print(f"  {better} over {worse} (p = {p:.2g})")
    if not differences:
        console.print("  none")
