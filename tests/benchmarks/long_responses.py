"""Tokens per second of rollouts with short and with long responses, alternating in one process.

    python tests/benchmarks/long_responses.py --model smollm2 --dtype bfloat16

No episode stops early. A step reads the keys and values of the tokens before it, so that long
responses cost more per token.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import torch
import tyro
from decoding import measure
from saved import publish

from agents.experience.episodes import collect_episodes
from agents.policies import CausalLMPolicy
from textenv.lm.loading import hide_progress_bars


@dataclass
class Options:
    model: str = "smollm2"
    """As in `python -m agents train`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the model that generates."""
    rows: int = 64
    """Episodes at once."""
    tokens: tuple[int, int] = (32, 256)
    """Of a short and of a long response."""
    rounds: int = 3
    """Alternating repetitions, of which the median counts."""
    save: bool = False
    """Replace what is kept in results."""


@torch.no_grad()
def main(options: Options) -> None:
    hide_progress_bars()
    runs: dict[str, Any] = {}
    for count in options.tokens:
        env = gym.make_vec(
            "TextGen-v0", num_envs=options.rows, tokenizer=options.model, reward="length",
            prompts=["The film was", "I thought that the story", "The acting"],
            max_new_tokens=count, min_new_tokens=count, autoreset_mode="DISABLED",
            scoring="batch", array="torch", copy=False,
        )  # fmt: skip
        policy = CausalLMPolicy(
            env.single_observation_space, env.single_action_space, model=options.model,
            dtype=options.dtype,
        )  # fmt: skip
        runs[str(count)] = partial(collect_episodes, env, policy, seed=0)
    seconds = measure(runs, options.rounds, "cpu")
    speeds = {
        name: options.rows * int(name) / statistics.median(times) for name, times in seconds.items()
    }
    short = speeds[str(options.tokens[0])]
    text = (
        f"{options.model}, {options.dtype}, {options.rows} rows, CPU, {torch.get_num_threads()} "
        f"threads, median of {options.rounds} alternating rounds\n\n"
        "| response tokens | tokens/s | ratio |\n|---|---|---|\n"
        + "".join(f"| {n} | {speed:.0f} | {speed / short:.2f} |\n" for n, speed in speeds.items())
    )
    command = f"long_responses.py --model {options.model} --dtype {options.dtype}"
    name = f"long-responses-{Path(options.model).stem}-{options.dtype}-cpu.md"
    publish(name, command, text, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
