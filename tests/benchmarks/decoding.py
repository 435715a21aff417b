"""Tokens per second of the rollout loop beside ``model.generate``, in one process, alternating.

    python tests/benchmarks/decoding.py --model smollm2 --dtype bfloat16

Both sample 24 new tokens for each of 64 rows from the same prompts. The rollout also gives the
log-probability of each token, values, and observations; `generate` gives tokens only. The last line
adds what RL needs of `generate`: one forward pass over the result for the log-probabilities.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import torch
import tyro

from agents.collect import collect_episodes
from agents.policies import CausalLMPolicy
from textenv.lm import load_model, load_tokenizer
from textenv.lm.loading import hide_progress_bars

RESULTS = Path(__file__).parent / "results"


@dataclass
class Options:
    model: str = "smollm2"
    """As in `python -m agents train`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the model that generates."""
    rows: int = 64
    """Sequences at once."""
    new_tokens: int = 24
    """Of each sequence; none stops early."""
    rounds: int = 5
    """Alternating repetitions, of which the median counts."""
    device: str = "auto"
    """Where to run."""


@torch.no_grad()
def main(options: Options) -> None:
    hide_progress_bars()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(options.model)
    prompts = ["The film was", "I thought that the story", "This movie is a bit", "The acting"]
    env = gym.make_vec(
        "TextGen-v0", num_envs=options.rows, tokenizer=tokenizer, prompts=prompts,
        reward="length", max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens,
        autoreset_mode="DISABLED", scoring="batch", array="torch", device=device, copy=False,
    )  # fmt: skip
    policy = CausalLMPolicy(
        env.single_observation_space, env.single_action_space,
        model=options.model, dtype=options.dtype, device=device,
    )  # fmt: skip
    model = load_model(options.model, dtype=getattr(torch, options.dtype), device=device)
    texts = [prompts[i % len(prompts)] for i in range(options.rows)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").to(device)

    def rollout() -> None:
        collect_episodes(env, policy, seed=0)

    def generate(score: bool = False) -> None:
        tokens = model.generate(
            **batch, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, use_cache=True,
            max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        if score:
            states = model.base_model(tokens).last_hidden_state[:, -options.new_tokens - 1 : -1]
            logits = model.get_output_embeddings()(states).float()
            logits.log_softmax(-1).gather(2, tokens[:, -options.new_tokens :, None])

    candidates = {
        "rollout of `TextGen-v0` (tokens, log-probs, values)": rollout,
        "`model.generate` (tokens)": generate,
        "`model.generate`, then a forward pass (tokens, log-probs)": lambda: generate(True),
    }
    report(options, device, measure(candidates, options.rounds, device))


def measure(candidates: dict, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each candidate, one after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(rounds + 1):
        for name, run in candidates.items():
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            began = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if round_number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def report(options: Options, device: str, seconds: dict[str, list[float]]) -> None:
    """Print the table, and write it to the results."""
    count = options.rows * options.new_tokens
    slowest = statistics.median(seconds["`model.generate` (tokens)"])
    lines = ["| | tokens/s (median) | against `generate` |", "|---|---|---|"]
    for name, times in seconds.items():
        median = statistics.median(times)
        lines.append(f"| {name} | {count / median:.0f} | {slowest / median:.2f} |")
    where = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    text = (
        f"{options.model}, {options.dtype}, {options.rows} rows × {options.new_tokens} new tokens, "
        f"{where}, {torch.get_num_threads()} threads, median of {options.rounds} alternating "
        "rounds\n\n" + "\n".join(lines) + "\n"
    )
    print(text)
    command = f"python tests/benchmarks/decoding.py --model {options.model} --dtype {options.dtype}"
    kind = "cuda" if device.startswith("cuda") else "cpu"
    target = RESULTS / f"decoding-{Path(options.model).stem}-{options.dtype}-{kind}.md"
    target.write_text(f"# `{command}`\n\n{text}")


if __name__ == "__main__":
    main(tyro.cli(Options))
