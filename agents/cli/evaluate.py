"""``evaluate``: sample from a saved agent and measure it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from agents import algorithms, checkpoint
from agents.agent import Agent
from agents.cli.report import print_evaluations
from agents.cli.train import EVALUATION_SEED, REACH_FILE, measure_reach
from agents.evaluation import evaluate_text
from agents.reference import WithinReach
from textenv.lm.loading import hide_progress_bars


@dataclass
class Evaluate:
    """Sample from a saved agent and measure it, in the task that it was trained on."""

    path: tyro.conf.Positional[Path]
    """The folder of the agent."""
    reward: str | None = None
    """Another reward. A reward "module:function" must be given here: code that a file names is
    not imported."""
    prompts: str | None = None
    """Other prompts."""
    reference: str | None = None
    """Another reference model for the KL."""
    max_new_tokens: int | None = None
    """Another token budget of a response."""
    stop: list[str] = field(default_factory=list)
    """Other stop strings."""
    kl_coef: float | None = None
    """Another β of the return, units of the score per nat."""
    episodes: int = 512
    """Number of episodes."""
    reference_episodes: int = 1024
    """Episodes of the untouched model, for the optimal return and best-of-n, where they were not
    measured in training; 0 leaves them out."""
    seed: int = EVALUATION_SEED
    """Seed of prompts and sampling; the default is that of the table that train prints."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""


def main(arguments: list[str]) -> None:
    """Sample from a saved agent and print its scores."""
    options = tyro.cli(Evaluate, args=arguments, prog="python -m agents evaluate")
    hide_progress_bars()
    names = ("reward", "prompts", "reference", "max_new_tokens")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.stop:
        given["stop"] = options.stop
    try:
        saved = checkpoint.describe(options.path)
        name, task = saved["algorithm"], (saved["task"] or {}).get("kwargs", {})
        if name not in algorithms.__all__:
            raise ValueError(
                f"The algorithm of the agent in {str(options.path)!r} is a custom class, "
                f"{name}: evaluate it from Python, with agents.evaluation.evaluate_text."
            )
        agent = getattr(algorithms, name).load(
            options.path, env_kwargs=given, device=options.device
        )
        result = evaluate_text(
            agent, n_episodes=options.episodes, seed=options.seed, kl_coef=options.kl_coef
        )
        same_task = all(task.get(name) == value for name, value in given.items())
        within_reach = find_reach(agent, options, result.kl_coef, same_task)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(str(error))
    print_evaluations({"agent": result}, within_reach)


def find_reach(
    agent: Agent, options: Evaluate, kl_coef: float, same_task: bool
) -> WithinReach | None:
    """The optimum and best-of-n: from the samples of the training run, or from new ones."""
    file = options.path / REACH_FILE
    if same_task and kl_coef > 0 and file.is_file() and options.reference_episodes > 0:
        return WithinReach(WithinReach.load(file).scores, kl_coef)
    return measure_reach(agent, kl_coef, options.reference_episodes)
