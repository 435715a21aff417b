"""``evaluate``: sample from a saved agent and measure it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.agent import Agent
from agents.cli.errors import checking_options
from agents.cli.parsing import parsed
from agents.cli.sources import OfSavedAgent, load_saved, options_of_run, prompts_of_evaluations
from agents.evaluation import evaluate_text
from agents.evaluation.comparison import EVALUATION_SEED
from agents.evaluation.optimum import Attainable
from agents.evaluation.tables import print_evaluations
from agents.runs import RunFolder
from agents.runs.options import RunOptions
from agents.runs.train import measure_attainable
from agents.saving import agent_folder
from textenv.arguments import Range


@dataclass
class Evaluate(OfSavedAgent):
    """Sample from a saved agent and measure it, in the task that it was trained on.

    Of a run, the newest agent is evaluated as the run's own evaluations were.
    """

    path: tyro.conf.Positional[Path]
    """The folder of a run or of an agent."""
    prompts: str | None = None
    """Other prompts; by default those of the run's evaluations."""
    reference: str | None = None
    """Another reference model for the KL."""
    max_new_tokens: Annotated[int | None, Range(1)] = None
    """Another token budget of a response."""
    stop: list[str] = field(default_factory=list)
    """Other stop strings."""
    kl_coef: Annotated[float | None, Range(0)] = None
    """Another β of the return, units of the score per nat."""
    eval_episodes: Annotated[int | None, Range(1)] = None
    """Number of episodes; by default that of the run's evaluations, else 512."""
    reference_episodes: Annotated[int, Range(0)] = 1024
    """Episodes of the untouched model, for the optimal return and best-of-n, where they were not
    measured in training; 0 leaves them out."""
    seed: int = EVALUATION_SEED
    """Seed of prompts and sampling; by default they are those of the table that train prints, whose
    prompts are the same for all runs, and whose texts are drawn by the seed of the run."""


def main(arguments: list[str]) -> None:
    """Sample from a saved agent and print its scores."""
    options = parsed(Evaluate, arguments, "evaluate")
    with checking_options():
        of_run = options_of_run(options.path)
        agent, same_task = load_agent(options, prompts_of_evaluations(options.path))
    kl_coef = of_run.get("kl_coef") if options.kl_coef is None else options.kl_coef
    episodes = options.eval_episodes or of_run.get("eval_episodes", RunOptions.eval_episodes)
    draw = of_run.get("seed", 0) if options.seed == EVALUATION_SEED else 0
    result = evaluate_text(agent, None, episodes, options.seed, kl_coef, draw=draw)
    attainable = find_reach(agent, options, result.kl_coef, same_task)
    print_evaluations({"agent": result}, attainable)


def load_agent(options: Evaluate, eval_prompts: Any) -> tuple[Agent, bool]:
    """The agent in the task of its evaluation, and whether this is the task of its run.

    ``eval_prompts`` are those of the run's evaluations; None takes those of its learning.
    """
    path = agent_folder.find(options.path)
    given = options.code() | {
        name: getattr(options, name)
        for name in ("reference", "max_new_tokens", "stop", "prompts")
        if getattr(options, name) not in (None, [])
    }
    task = (agent_folder.describe(path)["task"] or {}).get("kwargs", {})
    same_task = all(task.get(name) == value for name, value in given.items())
    if eval_prompts is not None:
        given.setdefault("prompts", eval_prompts)
    return load_saved(path, given, options.device), same_task


def find_reach(
    agent: Agent, options: Evaluate, kl_coef: float, same_task: bool
) -> Attainable | None:
    """The optimum and best-of-n: from the samples of the training run, or from new ones."""
    file = RunFolder(options.path).reference_scores
    if same_task and kl_coef > 0 and file.is_file() and options.reference_episodes > 0:
        return Attainable.load(file).at(kl_coef)
    return measure_attainable(agent, kl_coef, options.reference_episodes, None)
