"""The runs beside each other: results, problems, settings."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np

from agents.evaluation import mean_and_error
from agents.evaluation.plots import TOKENS
from agents.reports.gathering import ReportedRun, algorithm_of
from textenv.shown import printable

LONG = 400  # characters of a setting
SECTIONS = ("hyperparameters", "policy_kwargs")
ALONE = ("algorithm", "policy", "n_envs", "device", "threads", "machine", "commit")


def shown(text: str) -> str:
    """Text that a browser shows as it is, with visible control characters."""
    return escape(printable(text))


def run_title(place: int, run: ReportedRun, several: bool) -> str:
    """The name of a run, beside a square in its colour in the plots if there are several."""
    from matplotlib.colors import to_hex

    colour = to_hex(f"C{place % 10}")  # matplotlib's own cycle of ten
    square = f'<i class="swatch" style="background:{colour}"></i>' if several else ""
    return square + shown(run.name)


def results(runs: Sequence[ReportedRun]) -> str:
    """A table with a row for each run: what was reached, with how much."""
    rows = []
    for place, run in enumerate(runs):
        seed = run.record.hyperparameters.get("seed")
        about = algorithm_of(run.settings) + ("" if seed is None else f", seed {seed}")
        title = run_title(place, run, len(runs) > 1)
        rows.append((f"{title}<small>{shown(about)}</small>", result(run)))
    names = list(dict.fromkeys(name for _, cells in rows for name in cells))
    head = "".join(f"<th>{shown(name)}</th>" for name in names)
    body = "".join(
        f'<tr><th scope="row">{title}</th>'
        + "".join(
            f'<td data-label="{shown(name)}">{shown(cells.get(name, ""))}</td>' for name in names
        )
        + "</tr>"
        for title, cells in rows
    )
    return (
        f'<div class="wide"><table class="results"><thead><tr><th>run</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def result(run: ReportedRun) -> dict[str, str]:
    """The cells of a run by the names of their columns."""
    tokens = run.record.column(TOKENS)[-1]
    cells = {"steps": f"{tokens:,.0f}"}
    if "time/time_elapsed" in run.record.progress:
        cells["time"] = f"{run.record.column('time/time_elapsed')[-1] / 60:.1f} min"
    before, after = run.before, run.after
    for name in ("returns", "scores"):
        values = [getattr(one, name) for one in (before, after) if one is not None]
        if values:
            first = f"{values[0].mean():+z.3f} → " if len(values) > 1 else ""
            cells[name[:-1]] = first + number(values[-1])
        if name == "returns" and run.reach is not None and after is not None:
            share = run.reach.optimum.share(after.returns.mean())
            cells["share"] = "" if np.isnan(share) else f"{share:z.0%}"
    if after is not None:
        cells |= {"KL, nats": f"{after.kls.mean():z.2f}"} if len(after.kls) else {}
        cells["length, tokens"] = f"{after.lengths.mean():.1f}"
        cells["distinct-2"] = f"{after.distinct_2:.2f}"
    return cells


def number(values: np.ndarray) -> str:
    """A mean with its standard error, which a single value does not have."""
    summary = mean_and_error(values)
    error = summary["standard_error"]
    return f"{summary['mean']:+z.3f}" + ("" if error is None else f" ± {error:.3f}")


def problems(runs: Sequence[ReportedRun]) -> str:
    """The findings of each run, or that there are none."""
    several, parts = len(runs) > 1, []
    for place, run in enumerate(runs):
        items = "".join(
            f"<li><b>{shown(one.name)}</b>: {shown(one.sentence)}</li>"
            for one in run.diagnosis.findings
        )
        if items:
            title = f"<h3>{run_title(place, run, several)}</h3>" if several else ""
            parts.append(f'{title}<ul class="problems">{items}</ul>')
    return "".join(parts) or '<p class="healthy">✓ No problem was found.</p>'


def settings(runs: Sequence[ReportedRun]) -> str:
    """What the runs were made with: in several runs, first what differs between them."""
    columns = [flat(run.settings) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    differing = [name for name in names if len({column.get(name) for column in columns}) > 1]
    whole = table(names, columns, runs, marked=differing)
    details = (
        f"<details{'' if len(runs) > 1 else ' open'}><summary>All settings and versions</summary>"
        f"{whole}</details>"
    )
    if len(runs) == 1:
        return details
    if not differing:
        return f"<p>All settings are the same.</p>{details}"
    return f"<h3>What differs</h3>{table(differing, columns, runs)}{details}"


def flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a run as text, by their names; what is said twice is said once here."""
    values: dict[str, Any] = {name: settings[name] for name in ALONE if name in settings}
    task = settings.get("task") or {}
    values |= {"environment": task["id"]} if "id" in task else {}
    for section in (*(settings.get(name) for name in SECTIONS), task.get("kwargs")):
        values |= section or {}
    options = settings.get("options", {})
    values |= {name: value for name, value in options.items() if name not in values}
    versions = settings.get("versions", {})
    values |= {f"version of {name}": value for name, value in versions.items()}
    as_json = partial(json.dumps, ensure_ascii=False, default=str)
    return {name: one if isinstance(one, str) else as_json(one) for name, one in values.items()}


def _cut(value: str) -> str:
    """A setting that can be read; the rows of a task's prompts are long."""
    return value if len(value) <= LONG else f"{value[:LONG]}… ({len(value):,} characters)"


def table(
    names: Iterable[str],
    columns: Sequence[Mapping[str, str]],
    runs: Sequence[ReportedRun],
    marked: Sequence[str] = (),
) -> str:
    """A table with a row for each setting and a column for each run."""
    several = len(runs) > 1
    head = "".join(f"<th>{run_title(place, run, several)}</th>" for place, run in enumerate(runs))
    rows = "".join(
        f'<tr class="{"differs" if name in marked else "same"}"><th scope="row">{shown(name)}</th>'
        + "".join(f"<td>{shown(_cut(column.get(name, '')))}</td>" for column in columns)
        + "</tr>"
        for name in names
    )
    return (
        f'<div class="wide"><table class="settings"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
