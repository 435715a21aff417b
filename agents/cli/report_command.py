"""``report``: one HTML file about one or several runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agents import files
from agents.cli.errors import REFUSALS, checking_options, in_words
from agents.cli.parsing import parsed
from agents.cli.sources import OfSavedAgent, prompts_of_evaluations
from agents.evaluation.comparison import EVALUATION_SEED
from agents.evaluation.traces import trace_episodes
from agents.reports import ReportedRun, as_page, read_runs, runs_of
from agents.reports.gathering import is_kept
from agents.training.console import complain, console
from textenv.arguments import Range
from textenv.rewards import RewardError


@dataclass(kw_only=True)
class Report(OfSavedAgent):
    """Write one HTML file about one or several runs, beside each other.

    It has results, problems, learning curves, the score-KL plane, token heat maps, samples before
    and after, settings and versions. It needs no network and no script. A run may still be going
    on.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or of a comparison, whose runs are shown that have learned."""
    output: Path | None = None
    """The file; by default report.html in the folder of the run, or in that which holds all
    runs."""
    heat_maps: Annotated[int, Range(0)] = 4
    """Episodes to sample from each agent for the token heat maps; 0 loads no agent."""
    reward: str | None = None
    """Another reward of the sampled episodes. A reward "module:function" must be given here: code
    that a file names is not imported."""


def main(arguments: list[str]) -> None:
    """Read the runs, sample some episodes, and write the page."""
    options = parsed(Report, arguments, "report")
    with checking_options():
        if not options.runs:
            raise ValueError("Name at least one folder of a run.")
        paths = runs_of(options.runs)
        runs = read_runs(paths)
    for path, run in zip(paths, runs, strict=True):
        if options.heat_maps:
            sample_episodes(run, path, options)
    output = options.output or default_output(options.runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(output, as_page(runs))
    console.say(f"report  {output}")


def default_output(runs: tuple[Path, ...]) -> Path:
    """report.html in the folder of the only run, or in the one that holds all runs."""
    return Path(os.path.commonpath([run.absolute() for run in runs])) / "report.html"


def sample_episodes(run: ReportedRun, path: Path, options: Report) -> None:
    """Sample the episodes of the heat maps; a run whose agent cannot be loaded says why."""
    if not is_kept(run.settings):
        run.note = "The model of others is not kept, so that no episode of it can be sampled."
        return
    console.say((f"sampling {options.heat_maps} episodes of", "dim"), f" {path}")
    try:
        agent, prompts = options.load(path), prompts_of_evaluations(path)
        run.episodes = trace_episodes(agent, options.heat_maps, EVALUATION_SEED, prompts)
    except (*REFUSALS, RewardError) as error:
        run.note = in_words(error)
        complain(f"{path}: {run.note}")
