"""``compare``: train several algorithms on several seeds, and say which of them differ."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from agents.cli.options import AGENTS, Train, run_presets
from agents.cli.report import console, print_comparison
from agents.cli.train import REACH_FILE, run
from agents.plots import comparison, read_progress
from agents.reference import WithinReach


@dataclass
class Compare:
    """Train several algorithms on several seeds with equal tokens, and say which differ."""

    agents: list[str] = field(default_factory=lambda: list(AGENTS))
    """The algorithms; each uses its own presets."""
    seeds: int = 5
    """Seeds 0, 1, 2, ..."""
    model: str = "bundled"
    """As for train."""
    reward: str = "sentiment"
    """As for train."""
    prompts: str = "bundled"
    """As for train."""
    total_timesteps: int | None = None
    """Tokens of each run; by default as for train."""
    kl_coef: float | None = None
    """β, the cost of a nat of KL, in the rewards and in the returns by which all are judged; by
    default as for train."""
    reference_episodes: int | None = None
    """As for train."""
    max_new_tokens: int = 24
    """Token budget of a response."""
    n_envs: int | None = None
    """Episodes per rollout; by default as for train."""
    eval_episodes: int = 512
    """Episodes of the evaluations before and after."""
    output: Path = Path("runs/compare")
    """Folder for all runs and the plot. Runs that are finished there are not repeated."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """As for train."""


def main(arguments: list[str]) -> None:
    """Train each algorithm on each seed; print a table and draw a plot.

    Runs that are finished in the output folder with the same settings are not repeated.
    """
    options = tyro.cli(Compare, args=arguments, prog="python -m agents compare")
    if set(options.agents) - set(AGENTS) or options.seeds < 2:
        sys.exit(f"--agents takes {', '.join(AGENTS)}; --seeds at least 2.")
    runs: dict[str, list] = {name: [] for name in options.agents}
    finals: dict[str, list[dict[str, float]]] = {name: [] for name in options.agents}
    within_reach: WithinReach | None = None  # the task is the same in all runs
    for seed in range(options.seeds):
        for name in options.agents:
            output = options.output / f"{name}-{seed}"
            one, hyperparameters = _settings_of_run(options, name, seed, output)
            settings = {**dataclasses.asdict(one), **hyperparameters}
            if not _finished(output, settings):
                within_reach = run(one, hyperparameters, output, within_reach).within_reach
                _settings_file(output).write_text(json.dumps(settings, indent=2, default=str))
            elif within_reach is None and (output / REACH_FILE).is_file():
                within_reach = WithinReach.load(output / REACH_FILE)
            finals[name].append(json.loads((output / "evaluation.json").read_text()))
            runs[name].append(read_progress(output / "progress.csv"))
    print_comparison(finals, within_reach)
    pairs = {name: [(final["kl"], final["score"]) for final in finals[name]] for name in finals}
    title = f"{options.model}, reward {options.reward}, {options.seeds} seeds"
    comparison(runs, pairs, within_reach, options.output / "comparison.png", title)
    console.print(f"\nplot   {options.output / 'comparison.png'}")


def _settings_of_run(
    options: Compare, name: str, seed: int, output: Path
) -> tuple[Train, dict[str, Any]]:
    preset, hyperparameters = run_presets(name, options.model)
    chosen = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(Train)
        if getattr(options, field.name, None) is not None
    }
    settings = {**preset, **chosen, "agent": name, "seed": seed, "output": output}
    return Train(**settings), hyperparameters


def _settings_file(output: Path) -> Path:
    return output / "settings.json"


def _finished(output: Path, settings: dict[str, Any]) -> bool:
    """Whether a run with these settings has left its evaluation in the folder."""
    if not (output / "evaluation.json").is_file() or not _settings_file(output).is_file():
        return False
    return json.loads(_settings_file(output).read_text()) == json.loads(
        json.dumps(settings, default=str)
    )
