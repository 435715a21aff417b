"""What can be reached in the task of a run: where it is measured, and where it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.agent import Agent
from agents.cli.options import Train
from agents.cli.tasks import evaluation_prompts
from agents.evaluation.comparison import EVALUATION_SEED
from agents.evaluation.optimum import WithinReach, reference_scores
from agents.runs import RunFolder
from agents.training.progress import console


@dataclass(frozen=True)
class Reach:
    """The optimum and best-of-n, each None without a cost of KL.

    Attributes:
        evaluation: on the prompts of both evaluations.
        learning: on the prompts of the learning; the same unless the run has held-out prompts.
    """

    evaluation: WithinReach | None = None
    learning: WithinReach | None = None


def find_reach(options: Train, agent: Agent, folder: RunFolder, known: Reach | None) -> Reach:
    """What can be reached: given, of the run's first part, or measured now."""
    prompts = evaluation_prompts(options.eval_prompts, options.env)
    known = known or Reach()

    def one(given: WithinReach | None, file: Path, prompts: Any) -> WithinReach | None:
        if given is None and file.is_file():
            return WithinReach.load(file)
        if given is None:
            given = measure_reach(agent, options.kl_coef, options.reference_episodes, prompts)
        if given is not None:
            given.save(file)
        return given

    evaluation = one(known.evaluation, folder.reference_scores, prompts)
    if prompts is None:
        return Reach(evaluation, evaluation)
    return Reach(evaluation, one(known.learning, folder.learning_reference_scores, None))


def load_reach(folder: RunFolder) -> Reach:
    """What a run has stored."""
    files = folder.reference_scores, folder.learning_reference_scores
    evaluation, learning = (WithinReach.load(file) if file.is_file() else None for file in files)
    return Reach(evaluation, learning or evaluation)


def measure_reach(
    agent: Agent, kl_coef: float, n_episodes: int, prompts: Any
) -> WithinReach | None:
    """The optimum and best-of-n of the agent's task; None if KL costs nothing.

    Args:
        prompts: those of an evaluation; None for those of the learning.
    """
    if kl_coef <= 0 or n_episodes <= 0:
        return None
    console.print(
        f"[dim]sampling {n_episodes} episodes of the untouched model, for the optimum[/]",
        soft_wrap=True,
    )
    scores = reference_scores(agent, None, n_episodes, EVALUATION_SEED + 1, prompts)
    return WithinReach(scores, kl_coef)
