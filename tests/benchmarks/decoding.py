"""Tokens per second of the rollout loop beside ``model.generate``, in one process, alternating.

    python tests/benchmarks/decoding.py --model smollm2 --dtype bfloat16

Both sample 24 new tokens for each of 64 rows from the same prompts. The rollout also gives the
log-probability of each token, values, and observations; `generate` gives tokens only. Another line
adds what RL needs of `generate`: one forward pass over the result for the log-probabilities.

On CUDA the rollout is also shown with each kernel launched by itself, beside the limits of the
memory's bandwidth (measured by a copy: every step reads all weights, and the keys and values of the
rows so far) and of the arithmetic (measured by a product of large matrices).
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
from saved import publish
from transformers import LlamaConfig, LlamaForCausalLM

from agents.experience.episodes import collect_episodes
from agents.policies import CausalLMPolicy
from agents.policies.decoding import Decoders
from textenv.lm import load_model, load_tokenizer
from textenv.lm.loading import hide_progress_bars

LLAMA = LlamaConfig(  # the shape of TinyLlama, with the vocabulary of SmolLM2
    vocab_size=49152, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
    num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048,
)  # fmt: skip


@dataclass
class Options:
    model: str = "smollm2"
    """As in `python -m agents train`, or "llama-1.1b", which is random."""
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
    save: bool = False
    """Replace what is kept in results."""


@torch.no_grad()
def main(options: Options) -> None:
    hide_progress_bars()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    random = options.model == "llama-1.1b"
    tokenizer = load_tokenizer("smollm2" if random else options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # for `generate`
    prompts = ["The film was", "I thought that the story", "This movie is a bit", "The acting"]
    env = gym.make_vec(
        "TextGen-v0", num_envs=options.rows, tokenizer=tokenizer, prompts=prompts,
        reward="length", max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens,
        autoreset_mode="DISABLED", scoring="batch", array="torch", device=device, copy=False,
    )  # fmt: skip
    dtype = getattr(torch, options.dtype)
    source = LlamaForCausalLM(LLAMA).to(device) if random else options.model
    policy = CausalLMPolicy(
        env.single_observation_space, env.single_action_space,
        model=source, dtype=options.dtype, device=device,
    )  # fmt: skip
    model = policy.acting_model() if random else load_model(source, dtype=dtype, device=device)
    texts = [prompts[i % len(prompts)] for i in range(options.rows)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").to(device)

    def rollout(captured: bool | None = None) -> None:
        policy.decoders = kept[captured]
        collect_episodes(env, policy, seed=0)

    kept = {captured: Decoders(captured) for captured in (None, False)}

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
    if device.startswith("cuda"):
        name = "rollout of `TextGen-v0`, each kernel launched by itself"
        candidates[name] = lambda: rollout(captured=False)
    limits = {}
    if device.startswith("cuda"):
        acting = policy.acting_model()
        limits = {
            "the memory's bandwidth": options.rows / seconds_of_a_step(acting, batch, options),
            "the arithmetic": tokens_by_arithmetic(acting),
        }
    report(options, device, measure(candidates, options.rounds, device), limits)


def tokens_by_arithmetic(model: torch.nn.Module) -> float:
    """Tokens per second if each weight's product and sum were all, at the speed of a product of
    large matrices."""
    one = torch.randn(8192, 8192, dtype=next(model.parameters()).dtype, device=model.device)
    for _ in range(3):  # the last one counts
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(10):
            torch.mm(one, one)
        ended.record()
        torch.cuda.synchronize()
    speed = 10 * 2 * len(one) ** 3 / (began.elapsed_time(ended) / 1000)
    return speed / (2 * sum(parameter.numel() for parameter in model.parameters()))


def seconds_of_a_step(model: torch.nn.Module, batch: dict, options: Options) -> float:
    """The least time of a step: what it has to read, over the measured bandwidth of the memory."""
    one = torch.empty(2**30, dtype=torch.uint8, device=model.device)
    other = torch.empty_like(one)
    for _ in range(3):  # the last one counts
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(10):
            other.copy_(one)
        ended.record()
        torch.cuda.synchronize()
    bandwidth = 10 * 2 * len(one) / (began.elapsed_time(ended) / 1000)
    config = model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = config.hidden_size // config.num_attention_heads
    width = next(model.parameters()).element_size()
    weights = width * sum(parameter.numel() for parameter in model.parameters())
    columns = batch["input_ids"].shape[1] + options.new_tokens / 2  # on average
    cache = 2 * config.num_hidden_layers * heads * size * width * options.rows * columns
    print(f"{bandwidth / 1e12:.2f} TB/s; a step reads {weights / 1e6:.0f} MB of weights and "
          f"{cache / 1e6:.0f} MB of keys and values")  # fmt: skip
    return (weights + cache) / bandwidth


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


def report(
    options: Options, device: str, seconds: dict[str, list[float]], limits: dict[str, float]
) -> None:
    """Print the table, and keep it where this is asked for."""
    count = options.rows * options.new_tokens
    slowest = statistics.median(seconds["`model.generate` (tokens)"])
    lines = ["| | tokens/s (median) | against `generate` |", "|---|---|---|"]
    for name, times in seconds.items():
        median = statistics.median(times)
        lines.append(f"| {name} | {count / median:.0f} | {slowest / median:.2f} |")
    for name, limit in limits.items():
        lines.append(f"| limit of {name} | {limit:.0f} | {limit * slowest / count:.1f} |")
    where = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    text = (
        f"{options.model}, {options.dtype}, {options.rows} rows × {options.new_tokens} new tokens, "
        f"{where}, {torch.get_num_threads()} threads, median of {options.rounds} alternating "
        "rounds\n\n" + "\n".join(lines) + "\n"
    )
    command = (
        f"decoding.py --model {options.model} --dtype {options.dtype} "
        f"--rows {options.rows} --new-tokens {options.new_tokens}"
    )
    kind = "cuda" if device.startswith("cuda") else "cpu"
    shape = (
        ""
        if (options.rows, options.new_tokens) == (64, 24)
        else (f"-{options.rows}x{options.new_tokens}")
    )
    name = f"decoding-{Path(options.model).stem}-{options.dtype}-{kind}{shape}.md"
    publish(name, command, text, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
