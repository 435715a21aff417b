"""Evaluations and comparisons as people read them: tables, and samples of text."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from agents.evaluation import TextEvaluation
from agents.evaluation.optimum import Attainable
from agents.evaluation.results import with_error
from agents.evaluation.statistics import Difference
from agents.training.console import Part, RunConsole, console, text_of
from textenv.optimum import BestOf, Optimum, best_of_n_curve
from textenv.prompts.chat import asked

if TYPE_CHECKING:
    from agents.evaluation.comparison import Comparison

SAMPLES = 5
SHOWN_OF_PROMPT = 100  # characters
ROUNDING = 0.01  # nats in the mean KL, which float32 does not reach
ROUNDED = (
    "The KL of acting has the rounding of its precision in it, such as bfloat16, which even the "
    "untouched model has; the plainly recomputed one has not. The return is of the first."
)
HINDSIGHT = (
    "Best-of-n chooses among whole games by their scores, which depend on what the game hides; the "
    "optimum is of a player who does not know it, so that best-of-n can be above it."
)
# Columns of a comparison beside the return: heading, format and meaning.
SHOWN = {
    "share": ("share", "z.0%", "share: of the way from the untouched model to the optimum"),
    "score": ("score", "z.3f", ""),
    "kl": ("KL", "z.2f", "KL: nats per episode"),
    "tokens_per_answer": ("tokens", ".1f", "tokens: sampled for a response"),
    "distinct_2": ("dist-2", ".2f", "dist-2: distinct-2"),
}
EQUAL = 0.9  # numbers of tokens of which the smallest is at least this part of the largest
MANY = 12  # differences, beyond which each is only in the file


def print_evaluations(
    columns: Mapping[str, TextEvaluation],
    attainable: Attainable | None,
    console: RunConsole = console,
) -> None:
    """Print a table with a column for each evaluation, and samples of each."""
    console.print_uncut(evaluation_table(columns, attainable))
    if attainable is not None:
        print_sampling_error(attainable, console)
    if any(map(rounded, columns.values())):
        console.say((ROUNDED, "dim"))
    for name, evaluation in columns.items():
        print_samples(name, evaluation, console)


def print_sampling_error(attainable: Attainable, console: RunConsole) -> None:
    """How well the optimum is known, and what follows for a share of the way."""
    how = f"an estimate, ± {attainable.optimum.standard_error:.3f} (a standard error, as every ±)"
    if attainable.planned is not None:
        how = "planned over all dialogues; ± is a standard error"
    console.say(
        (f"The optimum is {how}: by chance a share can be below 0 % or above 100 %.", "dim")
    )
    if attainable.note:
        console.say((attainable.note, "yellow"))


def rounded(evaluation: TextEvaluation) -> bool:
    """Whether rounding shows in the mean KL of the episodes that were recomputed."""
    plainly = evaluation.recomputed_kls
    if len(plainly) == 0:
        return False
    return abs(evaluation.kls[: len(plainly)].mean() - plainly.mean()) > ROUNDING


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
            lambda e: number(share(e.returns.mean()), "z.0%"),
            lambda point: number(share(value(point)), "z.0%"),
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


def print_samples(name: str, evaluation: TextEvaluation, console: RunConsole) -> None:
    """The first few episodes, each with its score."""
    console.say("\n", (name, "bold"))
    episodes = list(zip(evaluation.scores, evaluation.prompts, evaluation.texts, strict=True))
    for score, prompt, response in episodes[:SAMPLES]:
        console.say(*sample_line(score, prompt, response))


def sample_line(score: float, prompt: str, response: str) -> list[Part]:
    """An episode for the console: a line, or several of a response that has several.

    Of a conversation it has what was asked last, from its beginning; of a plain prompt, which the
    response continues, the end.
    """
    question = asked(prompt)
    if question != prompt:
        cut = question if len(question) <= SHOWN_OF_PROMPT else f"{question[:SHOWN_OF_PROMPT]}…"
        question = f"{cut}  ▸ "
    elif len(prompt) > SHOWN_OF_PROMPT:
        question = f"…{prompt[-SHOWN_OF_PROMPT:]}"
    begin, lines = question.replace("\n", "⏎"), response.strip("\n").split("\n")
    indent = "\n         " if len(lines) > 1 else ""
    return [(f"  {score:+z.2f}  {begin}", "dim"), indent + indent.join(lines)]


def print_comparison(found: Comparison, task: str, console: RunConsole = console) -> None:
    """A table of a task's candidates by return, with what can be reached, and which differ."""
    reach, summary = found.attainable.get(task), found.summary()
    rows: list[dict[str, Any]] = summary[summary["task"] == task].to_dict("records")
    names = [row["candidate"] for row in rows]
    if reach is not None:
        rows += reach_rows(reach, {name.replace("-", " ") for name in names})
    rows.sort(key=lambda row: -row["return"] if np.isfinite(row["return"]) else np.inf)
    shown = [key for key in SHOWN if any(np.isfinite(row.get(key, np.nan)) for row in rows)]
    table = Table(box=None, pad_edge=False)
    table.add_column("", min_width=12, overflow="fold")
    for heading in ("return", *(SHOWN[key][0] for key in shown)):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        style = "" if "seeds" in row else "dim"
        cells = (number(row.get(key, np.nan), SHOWN[key][1]) for key in shown)
        table.add_row(*(text_of((cell, style)) for cell in (row["candidate"], mean(row), *cells)))
    console.print_uncut(table)
    kl_coef = "β" if reach is None else f"{reach.kl_coef:g}"
    cost = "" if "kl" not in shown else f" = score − {kl_coef}·KL"
    meanings = [f"return{cost}, mean and 95 % interval over seeds"]
    meanings += [SHOWN[key][2] for key in shown if SHOWN[key][2]]
    console.say(f"\n{'; '.join(meanings)}.")
    if reach is not None:
        print_sampling_error(reach, console)
        if reach.planned is not None and any(name.startswith("best-of") for name in names):
            console.say((HINDSIGHT, "dim"))
    learned = found.timesteps(task)
    if learned and min(learned.values()) < EQUAL * max(learned.values()):
        each = ", ".join(f"{name} {tokens:,.0f}" for name, tokens in learned.items())
        console.say(
            f"{'tokens' if 'score' in shown else 'steps'} to learn from: {each}. A rollout is "
            "finished once it has begun, so that large ones are not equal."
        )
    print_differences(found.differences[task], names, console)


def print_aggregates(found: Comparison, console: RunConsole = console) -> None:
    """A table of the candidates over all tasks, where there are several with known optima."""
    if not found.normalised:
        if len(found.tasks) > 1 and any(found.attainable.values()):
            console.say(
                "\nThere is no number over all tasks: it needs two seeds, and in each task an "
                "optimum above the untouched model; sample more of it (reference_episodes)."
            )
        return
    rows = found.aggregates().to_dict("records")
    table = Table(box=None, pad_edge=False)
    table.add_column("", min_width=12, overflow="fold")
    for heading in ("all tasks", "gap", *(task.removesuffix("-v0") for task in found.tasks)):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        middle = [row["interquartile_mean" + end] for end in ("", "_low", "_high")]
        cells = ("{:z.2f} [{:z.2f}, {:z.2f}]".format(*middle), f"{row['optimality_gap']:.2f}")
        table.add_row(row["candidate"], *cells, *(f"{row[task]:z.2f}" for task in found.tasks))
    console.say("\n", (f"all {len(found.tasks)} tasks", "bold"))
    console.print_uncut(table)
    console.say(
        "\n0 is the untouched reference and 1 the optimum of a task; all tasks: interquartile mean "
        "over their runs, with the 95 % interval over seeds; gap: how far the runs are below 1 on "
        "average; tasks: means over seeds."
    )
    print_differences(found.aggregate_differences, [row["candidate"] for row in rows], console)


def print_differences(differences: list[Difference], names: list[str], console: RunConsole) -> None:
    """Which candidates differ: by how much, or, of many, which ones."""
    if not differences:  # of a single candidate, or of single seeds
        return
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
        console.print_uncut(table)


def mean(row: Mapping[str, Any]) -> str:
    """The return of a row of a comparison, with its interval where it has one."""
    if not np.isfinite(row["return"]):
        return ""
    interval = " [{return_low:z.3f}, {return_high:z.3f}]" if "seeds" in row else ""
    return ("{return:z.3f}" + interval).format(**row)


def number(value: float, how: str) -> str:
    """A number of a table; nothing for nan."""
    return "" if np.isnan(value) else format(value, how)


def reach_rows(attainable: Attainable, left_out: Container[str]) -> list[dict[str, Any]]:
    """The untouched model, best-of-n and the optimum, as rows of a comparison."""
    points = {"untouched": best_of_n_curve(attainable.scores, [1])[0], **attainable.points()}
    values = {name: attainable.value(point) for name, point in points.items()}
    return [
        {
            "candidate": name, "return": values[name], "score": point.score, "kl": point.kl,
            "share": attainable.optimum.share(values[name]),
        }
        for name, point in points.items()
        if name not in left_out
    ]  # fmt: skip
