"""All that one GPU can be asked in eight minutes, in one page.

    python tests/benchmarks/gpu.py --save
    python tests/benchmarks/gpu.py --device cpu --small

The tests that need CUDA; the rollout beside ``model.generate`` and beside what the memory and the
arithmetic of the device allow, for the bundled model, SmolLM2 and a random Llama of 1.1 billion
weights; GRPO's samples beside TRL's; and SmolLM2 that learns from a million tokens with PPO and
GRPO. Each part is a process of its own, and has so many seconds; a part that takes longer, or
fails, is a line of the page. ``--small`` is the same of few tokens, which tries the parts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import tyro
from saved import publish

LIMIT, LEAST = 480, 10  # seconds, of all parts and of one
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TABLE = ("| ", "|-")
SUMMARY = ("memory ", "before  ", "return =", "score  ", "KL, nats", " tokens in ")
TESTS = ("tests/agents/test_cuda.py", "tests/textenv/lm/test_captured.py")


@dataclass
class Options:
    device: Literal["cuda", "cpu"] = "cuda"
    """Where to run; the CPU shows only that all parts do."""
    small: bool = False
    """Few rows and tokens."""
    save: bool = False
    """Replace what is kept in results."""


@dataclass
class Part:
    """A process, and the lines of its output that count."""

    title: str
    command: tuple[str, ...]
    seconds: int  # that it has
    words: tuple[str, ...] = ()  # of lines that count; otherwise it is the last one


def parts(options: Options, folder: str) -> Iterator[Part]:
    """What is measured, the shortest first."""
    small, device = options.small, ("--device", options.device)
    yield Part("tests", ("-m", "pytest", "-q", "-n0", *TESTS), 120)
    models = ("bundled",) if small else ("bundled", "smollm2", "llama-1.1b")
    tokens = "8" if small else "128"
    for model in models:
        for rows in ("8",) if small else ("64", "256", "1024"):
            script = str(HERE / "decoding.py")
            shape = ("--rows", rows, "--new-tokens", tokens, "--rounds", "2")
            dtype = ("--dtype", "float32" if model == "bundled" else "bfloat16")
            command = (script, "--model", model, *dtype, *shape, *device)
            yield Part(f"decoding, {model}, {rows} rows × {tokens} tokens", command, 60, TABLE)
    model = ("--model", "bundled" if small else "smollm2")
    for lengths in ("natural", "full"):
        shape = ("--rows", "8" if small else "64", "--budget", "8" if small else "64")
        script = str(HERE / "trl_speed.py")
        command = (script, *model, "--lengths", lengths, *shape, "--rounds", "3", *device)
        yield Part(f"GRPO beside TRL, {lengths} lengths", command, 90, TABLE)
    for agent in ("ppo", "grpo"):
        few = "256" if small else "1024"
        command = (
            "-m", "agents", "train", "--agent", agent, *model, *device, "--output",
            f"{folder}/{agent}", "--total-timesteps", "2000" if small else "1000000",
            "--eval-episodes", few, "--reference-episodes", few,
        )  # fmt: skip
        yield Part(f"{agent} learns", command, 150, SUMMARY)


def lines_of(part: Part, left: float) -> list[str]:
    """What a part has printed, as far as it counts, or why there is nothing. So many seconds are
    ``left`` for all parts."""
    seconds = min(part.seconds, left)
    if seconds < LEAST:
        return ["There was no time for it."]
    try:
        done = subprocess.run(
            [sys.executable, *part.command], cwd=ROOT, capture_output=True, text=True,
            timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [f"It took more than {seconds:.0f} s."]
    printed = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        return [f"It failed: {' '.join(last)}"]
    chosen = [line for line in printed if any(word in line for word in part.words)]
    if part.words == SUMMARY:
        return ["```", *chosen, "```"]
    return chosen or printed[-1:]


def main(options: Options) -> None:
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    text = [f"{where}, torch {torch.__version__}", ""]
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        for part in parts(options, folder):
            start = time.perf_counter()
            lines = lines_of(part, LIMIT - (start - began))
            title = f"{part.title} ({time.perf_counter() - start:.0f} s)"
            print(title, *lines, sep="\n", flush=True)
            text += [f"## {title}", "", *lines, ""]
    text.append(f"{time.perf_counter() - began:.0f} s in all.\n")
    arguments = [f"--device {options.device}"] * (options.device != "cuda")
    arguments += ["--small"] * options.small
    publish("gpu.md", " ".join(["gpu.py", *arguments]), "\n".join(text), options.save)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
