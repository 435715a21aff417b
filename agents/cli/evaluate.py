"""``evaluate``: sample from a saved agent and measure it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from agents import algorithms, checkpoint
from agents.cli.options import choose_device
from agents.cli.report import print_evaluations
from agents.cli.train import EVALUATION_SEED
from agents.evaluation import evaluate_text
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
    episodes: int = 256
    """Number of episodes."""
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
        name = checkpoint.describe(options.path)["algorithm"]
        if name not in algorithms.__all__:
            raise ValueError(
                f"The algorithm of the agent in {str(options.path)!r} is a custom class, "
                f"{name}: evaluate it from Python, with agents.evaluation.evaluate_text."
            )
        agent = getattr(algorithms, name).load(
            options.path, env_kwargs=given, device=choose_device(options.device)
        )
        result = evaluate_text(agent, n_episodes=options.episodes, seed=options.seed)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(str(error))
    print_evaluations(**{str(options.path): result})
