"""What the folder of a run costs: the share of a run's time that writing it takes.

    python tests/benchmarks/run_folder.py

A default run on the bundled model, with its log, completions and checkpoints. The time within the
recorder, the logger and the reading of the environment's state is added up, so that one run tells,
and other processes disturb both sums alike.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from saved import publish
from stable_baselines3.common.logger import Logger

from agents import PPO
from agents.experience.episodes import EpisodeCollector
from agents.runs import RunRecorder
from agents.training import presets
from textenv.lm.loading import hide_progress_bars


@dataclass
class Options:
    """Measure the cost of a run's folder."""

    total_timesteps: int = presets.training("bundled")["total_timesteps"]
    """Tokens of the run."""
    save_every: str = "2 min"
    """As for train."""
    save: bool = False
    """Replace what is kept in results."""


def main(options: Options) -> None:
    """Run, and write the table."""
    hide_progress_bars()
    seconds: dict[str, float] = {}

    def timed(owner, name: str, label: str) -> None:
        function = getattr(owner, name)

        def wrapper(*arguments, **keywords):
            began = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                seconds[label] = seconds.get(label, 0.0) + time.perf_counter() - began

        setattr(owner, name, wrapper)

    timed(RunRecorder, "_init_callback", "opening the folder")
    timed(RunRecorder, "_on_rollout_end", "completions")
    timed(RunRecorder, "save", "checkpoints")
    timed(Logger, "dump", "progress.csv and TensorBoard")
    timed(EpisodeCollector, "state_dict", "reading the environment's state")
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", seed=0,
        env_kwargs={"reward": "sentiment", "reference": "bundled", "kl_coef": 0.1},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        agent.learn(options.total_timesteps, RunRecorder(Path(folder) / "run", options.save_every))
        total = time.perf_counter() - began
    lines = [
        f"{agent.num_timesteps} tokens in {total:.0f} s, {agent.num_rollouts} rollouts.", "",
        "| | seconds | share of the run |", "|---|---|---|",
        *(f"| {label} | {value:.2f} | {value / total:.2%} |" for label, value in seconds.items()),
    ]  # fmt: skip
    given = [argument for argument in sys.argv[1:] if argument != "--save"]
    command = " ".join(["run_folder.py", *given])
    publish("run_folder.md", command, "\n".join(lines) + "\n", options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
