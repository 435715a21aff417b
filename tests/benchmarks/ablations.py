"""What each choice of PPO's preset is worth in return, on the bundled model.

    python tests/benchmarks/ablations.py --seeds 5       # hours; finished runs are not repeated
    python tests/benchmarks/ablations.py --variants preset shared-critic --seeds 2

Each variant changes the preset in one respect. Give two processes disjoint ``--variants`` to run
them side by side in one folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from scipy.stats import t as student

VARIANTS: dict[str, list[str]] = {
    "preset": [],
    "epsilon-1e-5": ["--learning-rate", "2e-4", "--adam-epsilon", "1e-5"],
    "constant-rate": ["--lr-schedule", "constant"],
    "shared-critic": ["--critic-layers", "0", "--vf-learning-rate", "None", "--vf-coef", "0.1"],
    "critic-1-layer": ["--critic-layers", "1"],
    "critic-slow": ["--vf-learning-rate", "5e-4"],
    "lambda-0.95": ["--gae-lambda", "0.95"],
    "lambda-1": ["--gae-lambda", "1.0"],
    "two-epochs": ["--n-epochs", "2"],
    "rows-64": ["--n-envs", "64"],
    "no-clip": ["--clip-range", "None"],
}


@dataclass
class Options:
    """Train PPO with one change to its preset at a time."""

    variants: list[str] = field(default_factory=lambda: list(VARIANTS))
    """Names of the variants."""
    seeds: int = 5
    """Seeds 20, 21, ...: apart from those on which presets were chosen and results are reported."""
    total_timesteps: int = 150_000
    """Tokens of each run."""
    output: Path = Path("runs/ablations")
    """Folder of the runs."""


def main(options: Options) -> None:
    """Run what is not finished, and print a table in Markdown."""
    print(
        f"\n| | return, mean and 95 % t-interval of {options.seeds} seeds | score | KL | seconds |"
    )
    print("|---|---|---|---|---|")
    for name in options.variants:
        runs = [run(options, name, seed) for seed in range(20, 20 + options.seeds)]
        values = {key: np.array([one[key] for one in runs]) for key in runs[0]}
        returns = values["return"]
        half = 0.0
        if len(returns) > 1:
            spread = returns.std(ddof=1) / len(returns) ** 0.5
            half = student.ppf(0.975, len(returns) - 1) * spread
        print(
            f"| {name} | {returns.mean():.3f} ± {half:.3f} | {values['score'].mean():.3f} "
            f"| {values['kl'].mean():.2f} | {np.median(values['seconds']):.0f} |",
            flush=True,
        )


def run(options: Options, name: str, seed: int) -> dict[str, float]:
    """The evaluation of one run, and its seconds of learning; a finished one is read."""
    folder = options.output / f"{name}-{seed}"
    evaluation = folder / "evaluation.json"
    if not evaluation.is_file() or "after" not in json.loads(evaluation.read_text()):
        command = [
            sys.executable, "-m", "agents", "train", "--seed", str(seed), "--output", str(folder),
            "--total-timesteps", str(options.total_timesteps), "--eval-episodes", "1536",
            "--reference-episodes", "0", "--overwrite", *VARIANTS[name],
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = json.loads(evaluation.read_text())["after"]
    return {key: after[key]["mean"] for key in ("return", "score", "kl")} | {
        "seconds": after["seconds"]
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
