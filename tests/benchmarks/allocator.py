"""Seconds of a rollout and of an update of SmolLM2 on a CPU, where a process keeps the memory that
it frees (`textenv.lm.allocator`) and where it gives large blocks back, as glibc does by itself.

    OMP_NUM_THREADS=2 python tests/benchmarks/allocator.py --save

Each is a process of its own, in turn, since the rule is one of a whole process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import torch
import tyro
from saved import publish

from agents import GRPO, PPO

# Changes nothing in glibc, but a process with such a variable is left as it is.
GIVEN_BACK = {"MALLOC_PERTURB_": "0"}
AGENTS = {
    "PPO, adapters of rank 16, bfloat16": (PPO, {"dtype": "bfloat16", "lora": 16}),
    "GRPO, all weights, bfloat16": (GRPO, {"dtype": "bfloat16"}),
    "GRPO, all weights, float32": (GRPO, {}),
}
ROWS, TOKENS = 32, 24


@dataclass
class Options:
    """One comparison."""

    rounds: int = 3
    """Processes of each kind, in turn."""
    rollouts: int = 4
    """Of a process; the first is not counted."""
    only: str | None = None
    """Measure this agent in this process, and print what was found."""
    save: bool = False
    """Replace what is kept in results."""


def measure(name: str, rollouts: int) -> dict[str, float]:
    """Median seconds in this process, and the gigabytes that it took at most."""
    algorithm, of_the_policy = AGENTS[name]
    agent = algorithm(
        "CausalLMPolicy", "TextGen-v0", n_envs=ROWS, seed=0, device="cpu",
        env_kwargs={
            "reference": "smollm2", "reference_dtype": of_the_policy.get("dtype", "float32"),
            "kl_coef": 0.05, "reward": "length(20)", "max_new_tokens": TOKENS,
            "min_new_tokens": TOKENS,
        },
        policy_kwargs={"model": "smollm2", **of_the_policy},
    )  # fmt: skip
    seconds: dict[str, list[float]] = {"rollout": [], "update": []}
    for _ in range(rollouts):
        began = time.perf_counter()
        rollout = agent.collect()
        collected = time.perf_counter()
        agent.update(rollout)
        seconds["rollout"].append(collected - began)
        seconds["update"].append(time.perf_counter() - collected)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {part: statistics.median(each[1:]) for part, each in seconds.items()} | {"GB": peak}


def main(options: Options) -> None:
    """Measure each agent both ways, and print a table."""
    if options.only is not None:
        print(json.dumps(measure(options.only, options.rollouts)))
        return
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    lines = []
    for name in AGENTS:
        found: dict[str, list[dict[str, float]]] = {"kept": [], "given back": []}
        for _ in range(options.rounds):
            for way, each in found.items():
                command = [sys.executable, __file__, "--only", name]
                done = subprocess.run(
                    [*command, "--rollouts", str(options.rollouts)], check=True, text=True,
                    env=plain | (GIVEN_BACK if way == "given back" else {}), stdout=subprocess.PIPE,
                )  # fmt: skip
                each.append(json.loads(done.stdout.splitlines()[-1]))
        for part in ("rollout", "update", "GB"):
            kept, back = (statistics.median(run[part] for run in runs) for runs in found.values())
            what = f"{part}, s" if part != "GB" else "memory at most, GB"
            lines.append(f"| {name} | {what} | {kept:.2f} | {back:.2f} | {back / kept:.2f} |")
    threads = torch.get_num_threads()
    text = (
        f"SmolLM2-135M, {ROWS} × {TOKENS} tokens, {threads} CPU threads, medians of "
        f"{options.rounds} processes of each kind, in turn\n\n"
        "| | | freed memory is kept | given back | ratio |\n|---|---|---|---|---|\n"
    )
    publish("allocator.md", "allocator.py", text + "\n".join(lines) + "\n", options.save)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
