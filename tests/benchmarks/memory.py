"""Peak memory of an update, beside one that makes all logits at once, and whether both agree.

    python tests/benchmarks/memory.py --rows 64 --tokens 256

Each variant runs in a process of its own, whose peak is read at the end and from which that before
the update is subtracted. Both compute the activations of their layers again in the backward pass,
which would not fit beside the logits. Gradients are compared by their norm and by a random
projection.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import gymnasium as gym
import torch
import tyro
from saved import publish

from textenv.lm.loading import hide_progress_bars


@dataclass
class Options:
    model: str = "smollm2"
    """As for train."""
    rows: int = 64
    """Episodes of the update."""
    tokens: int = 256
    """Of each response."""
    variant: Literal["both", "chunks", "full"] = "both"
    """In chunks as this package does, with full logits, or one after the other."""
    save: bool = False
    """Replace what is kept in results."""


def peak() -> float:
    """The largest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(options: Options) -> dict[str, float]:
    """One forward and backward pass of −log π of random responses."""
    import textenv.lm.log_probs as scoring
    from agents.policies import CausalLMPolicy

    hide_progress_bars()
    if options.variant == "full":
        scoring.CHUNK_ELEMENTS = 2**62
    length = 8 + options.tokens
    env = gym.make("TextGen-v0", tokenizer=options.model, max_new_tokens=options.tokens)
    policy = CausalLMPolicy(
        env.observation_space, env.action_space, model=options.model, gradient_checkpointing=True
    )
    ids = torch.randint(
        10,
        int(env.action_space.n),
        (options.rows, length),
        generator=torch.Generator().manual_seed(0),
    )
    mask = torch.ones(options.rows, options.tokens, dtype=torch.bool)
    observations = {"input_ids": ids, "prompt_lengths": torch.full((options.rows,), 8)}
    before, began = peak(), time.perf_counter()
    batch = SimpleNamespace(observations=observations, actions=ids[:, 8:], mask=mask)
    found = policy.evaluate(batch)
    (-found.log_probs.mean()).backward()
    seconds = time.perf_counter() - began
    generator = torch.Generator().manual_seed(1)
    norm, projection = 0.0, 0.0
    for parameter in policy.actor_parameters():
        norm += float(parameter.grad.double().square().sum())
        direction = torch.randn(parameter.shape, generator=generator)
        projection += float((parameter.grad * direction).double().sum())
    return {"before": before, "peak": peak() - before, "seconds": seconds, "norm": norm**0.5,
            "projection": projection}  # fmt: skip


def main(options: Options) -> None:
    """Measure one variant as JSON, or both as a table."""
    if options.variant != "both":
        print(json.dumps(measure(options)))
        return
    found = {}
    for variant in ("full", "chunks"):
        command = [sys.executable, __file__, "--model", options.model, "--rows", str(options.rows),
                   "--tokens", str(options.tokens), "--variant", variant]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        found[variant] = json.loads(result.stdout.splitlines()[-1])
    full, chunks = found["full"], found["chunks"]
    apart = abs(full["norm"] - chunks["norm"]) / full["norm"]
    text = (
        f"{options.model}, float32, {options.rows} × {options.tokens} response tokens, CPU\n\n"
        "| | peak of the update, MB | ratio | seconds |\n|---|---|---|---|\n"
        f"| all logits at once | {full['peak']:.0f} | 1.00 | {full['seconds']:.0f} |\n"
        f"| in chunks | {chunks['peak']:.0f} | {chunks['peak'] / full['peak']:.2f} "
        f"| {chunks['seconds']:.0f} |\n\nBefore it: {chunks['before']:.0f} MB. The norms of the "
        f"gradients differ by {apart:.1g} of their size, their projections on a random direction "
        f"by {abs(full['projection'] - chunks['projection']) / full['norm']:.1g} of the norm.\n"
    )
    command = f"memory.py --model {options.model} --rows {options.rows} --tokens {options.tokens}"
    publish(f"memory-{Path(options.model).stem}.md", command, text, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
