"""The whole page of a report."""

import datetime
import importlib.metadata
from collections.abc import Sequence
from importlib.resources import files

from agents.evaluation import plots
from agents.reports import tables, texts
from agents.reports.gathering import ReportedRun, algorithm_of, common_reach
from agents.reports.tables import shown

# Columns of the log that get a small plot each, where they are logged.
COLUMNS = {
    plots.SCORE: "score",
    plots.KL: "KL, nats per episode",
    "rollout/entropy": "entropy, nats per token",
    "rollout/ep_len_mean": "length, tokens",
    "rollout/score_std": "deviation of the scores",
    "rollout/groups_without_spread": "groups without spread",
    "train/explained_variance": "explained variance",
    "train/clip_fraction": "clipped share of steps",
    "train/approx_kl": "KL to the old policy, nats per step",
    "train/grad_norm": "norm of the gradient",
}
LONGEST_LABEL = 24  # letters of a name in a legend
# Nothing is loaded, and no script runs, whatever the texts are.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def as_page(runs: Sequence[ReportedRun]) -> str:
    """The report of at least one run, as HTML."""
    title = title_of(runs)
    version = importlib.metadata.version("textenv")
    made = f"textenv {version}, {datetime.datetime.now():%Y-%m-%d %H:%M}"
    sections = {
        "Results": tables.results(runs),
        "Problems": tables.problems(runs),
        "Learning": learning(runs),
        "Tokens": texts.heat_maps(runs),
        "Samples": texts.samples(runs),
        "Settings": tables.settings(runs),
    }
    links = " ".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    body = "".join(
        f'<section id="{name.lower()}"><h2>{name}</h2>{content}</section>'
        for name, content in sections.items()
    )
    css = files("agents.reports").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{shown(title)}</title><style>{css}</style></head>'
        f"<body><header><h1>{shown(title)}</h1><p>{shown(made)}</p><nav>{links}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )


def title_of(runs: Sequence[ReportedRun]) -> str:
    """What was trained on what, or how many runs there are."""
    if len(runs) > 1:
        return f"{len(runs)} runs"
    settings, task = runs[0].settings, runs[0].record.task
    model = settings.get("policy_kwargs", {}).get("model")
    parts = [algorithm_of(settings) or runs[0].name]
    parts += [f"on {model}"] if isinstance(model, str) else []
    reward = task.get("reward")
    return " ".join(parts) + (f", reward {reward}" if isinstance(reward, str) else "")


def learning(runs: Sequence[ReportedRun]) -> str:
    """Return and score-KL plane, then a small plot of each column."""
    logs = {label(place, run): run.record.progress for place, run in enumerate(runs)}
    named = logs if len(runs) > 1 else {"": runs[0].record.progress}
    reach = common_reach(runs)
    if any(plots.SCORE in log and plots.KL in log for log in logs.values()):
        large = [
            ("return against tokens", plots.returns_panel(named, reach)),
            ("score against KL", plots.plane_panel(named, reach)),
        ]
    else:
        rewards = "rollout/ep_rew_mean"
        large = [("return against steps", plots.column_panel(named, rewards, "mean return"))]
    small = [
        (title, plots.column_panel(named, column, title))
        for column, title in COLUMNS.items()
        if any(column in log for log in logs.values())
    ]
    said = None if reach is None else reach.note
    note = f'<p class="note">{shown(said)}</p>' if said else ""
    return (
        f'<div class="plots large">{"".join(figure(*one) for one in large)}</div>{note}'
        f'<div class="plots small">{"".join(figure(*one) for one in small)}</div>'
    )


def label(place: int, run: ReportedRun) -> str:
    """The name of a run in a legend: a long one has its place and its end, so that names differ."""
    name = run.name
    if len(name) > LONGEST_LABEL:
        name = f"{place + 1} …{name[-LONGEST_LABEL:]}"
    return name


def figure(title: str, svg: str) -> str:
    """A plot, which a screen reader names."""
    return f'<figure role="img" aria-label="{shown(title)}">{svg}</figure>'
