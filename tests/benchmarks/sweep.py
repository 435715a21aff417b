"""Train many agents, several at once, and compare them by the return.

    python tests/benchmarks/sweep.py ablations --seeds 20 21 22 23 24 --total-timesteps 80000
    python tests/benchmarks/sweep.py smollm2-ppo --seeds 10 11 --total-timesteps 60000 --workers 8

Each table below is a set of variants: an algorithm, and what differs from its preset. A run is
trained and evaluated in a process of its own (`--workers` at once) and appended to a file of JSON
lines; a run that is in the file is not repeated.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.stats import t as student

EVALUATION_SEED = 1_000_000  # different from the seeds of training
Variant = tuple[str, dict[str, Any]]  # an algorithm, and its arguments


def grid(algorithm: str, **values: Iterable[Any]) -> dict[str, Variant]:
    """Every combination of the values of some arguments."""
    found = {}
    for chosen in itertools.product(*values.values()):
        arguments = dict(zip(values, chosen, strict=True))
        name = ", ".join(f"{key}={value}" for key, value in arguments.items())
        found[f"{algorithm}, {name}"] = algorithm, arguments
    return found


TABLES: dict[str, dict[str, Variant]] = {
    # Real models: all weights, or adapters of low rank.
    "smollm2": {
        **grid("PPO", lora=[16], learning_rate=[5e-4, 1e-3]),
        **grid("PPO", critic_layers=[0], vf_learning_rate=[None], learning_rate=[2e-5, 4e-5]),
        **grid("PPO", critic_layers=[2], learning_rate=[4e-5]),
        **grid("GRPO", lora=[16], learning_rate=[5e-4]),
        **grid("GRPO", learning_rate=[2e-5, 4e-5]),
        **grid("RLOO", lora=[16], n_envs=[32, 128], learning_rate=[5e-4]),
        **grid("RLOO", n_envs=[128], learning_rate=[4e-5, 8e-5]),
    },
    "presets": {
        name: (name, {}) for name in ("PPO", "TRPO", "ActorCritic", "REINFORCE", "RLOO", "GRPO")
    },
    # What each choice of PPO's preset for small models is worth.
    "ablations": {
        "preset": ("PPO", {}),
        "epsilon 1e-5, rate 2e-4": ("PPO", {"learning_rate": 2e-4, "adam_epsilon": 1e-5}),
        "constant rate": ("PPO", {"lr_schedule": "constant"}),
        "value head on the policy's body": ("PPO", {"critic_layers": 0}),
        "the same, with the policy's rate": (
            "PPO", {"critic_layers": 0, "vf_learning_rate": None, "vf_coef": 0.1},
        ),
        "critic of one layer": ("PPO", {"critic_layers": 1}),
        "critic's rate 5e-4": ("PPO", {"vf_learning_rate": 5e-4}),
        "λ = 0.95": ("PPO", {"gae_lambda": 0.95}),
        "λ = 1": ("PPO", {"gae_lambda": 1.0}),
        "two epochs": ("PPO", {"n_epochs": 2}),
        "64 rows": ("PPO", {"n_envs": 64}),
        "no clip": ("PPO", {"clip_range": None}),
        "advantages not normalised": ("PPO", {"normalize_advantage": False}),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run."""

    name: str
    algorithm: str
    arguments: dict[str, Any]
    seed: int
    total_timesteps: int
    model: str
    kl_coef: float
    device: str
    eval_episodes: int
    env: str = "TextGen-v0"

    def key(self) -> list[Any]:
        """What tells it from other runs."""
        return [self.env, self.name, self.seed, self.total_timesteps, self.model, self.kl_coef]


def make_agent(job: Job) -> Any:
    """The untrained agent of a run, as the command line would make it."""
    import agents
    from agents.runs.options import choose_dtype

    cls = getattr(agents, job.algorithm)
    arguments = dict(job.arguments)
    own = {"critic_layers", "lora"}
    policy = {key: arguments.pop(key) for key in own & arguments.keys()}
    dtype = choose_dtype("auto", job.device, job.model, cls.policy_needs.get("dtype"))
    return cls(
        "CausalLMPolicy", job.env, seed=job.seed, device=job.device,
        env_kwargs={
            "reference": job.model, "reference_dtype": dtype, "kl_coef": job.kl_coef,
            "tokenizer": job.model,
        },
        policy_kwargs={"model": job.model, "dtype": dtype, **policy, **cls.policy_needs},
        **arguments,
    )  # fmt: skip


def run(job: Job) -> dict[str, Any]:
    """Train and evaluate; an error, as of a rate that is too large, is a result."""
    try:
        found = train_and_evaluate(job)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    return {"key": job.key(), "name": job.name, "seed": job.seed, **found}


def train_and_evaluate(job: Job) -> dict[str, Any]:
    """What a run has reached, and what it took."""
    import torch

    from agents.evaluation import evaluate_text
    from textenv.lm.loading import hide_progress_bars
    from textenv.tasks import TASKS

    hide_progress_bars()
    torch.set_num_threads(1)
    on_cuda = job.device.startswith("cuda")
    if on_cuda:
        torch.cuda.empty_cache()  # of the run before
        torch.cuda.reset_peak_memory_stats()
    agent = make_agent(job)
    agent.learn(job.total_timesteps)
    memory = torch.cuda.max_memory_allocated() if on_cuda else 0
    prompts = TASKS[job.env].held_out if job.env in TASKS else None
    after = evaluate_text(agent, None, job.eval_episodes, EVALUATION_SEED, prompts=prompts)
    return {
        "return": after.returns.mean().item(), "score": after.scores.mean().item(),
        "kl": after.kls.mean().item(), "distinct": after.distinct_2,
        "tokens": agent.num_timesteps, "seconds": agent.learning_seconds, "memory": memory,
        "length": after.lengths.mean().item(), "texts": after.responses[:4],
        "score error": after.scores.std(ddof=1).item() / len(after.scores) ** 0.5,
    }  # fmt: skip


def finished(file: Path) -> list[dict[str, Any]]:
    """The runs in a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def sweep(
    jobs: Iterable[Job], file: Path, workers: int, until: float = float("inf")
) -> Iterator[dict[str, Any]]:
    """Run what is not in the file yet; runs that have not ended at the time ``until`` are dropped.

    Args:
        until: seconds as `time.monotonic` counts them.
    """
    known = {json.dumps(result["key"]) for result in finished(file)}
    missing = [job for job in jobs if json.dumps(job.key()) not in known]
    file.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        results = pool.imap_unordered(run, missing)
        for _ in missing:
            try:
                result = results.next(timeout=max(0.0, min(until - time.monotonic(), 1e6)))
            except multiprocessing.TimeoutError:
                pool.terminate()
                return
            with file.open("a") as lines:
                lines.write(json.dumps(result) + "\n")
            yield result
        pool.close()
        pool.join()


def table(results: list[dict[str, Any]]) -> str:
    """Means and 95 % t-intervals over the seeds of each variant, the best first, in Markdown."""
    rows = []
    for name in dict.fromkeys(result["name"] for result in results):
        every = [result for result in results if result["name"] == name]
        good = [result for result in every if "return" in result]
        if not good:
            rows.append((-np.inf, f"| {name} | {len(every)} | {every[0]['error']} | | | | |"))
            continue
        values = {
            key: np.array([result[key] for result in good])
            for key in ("return", "score", "kl", "distinct", "tokens", "seconds")
        }
        mean, half = values["return"].mean(), ""
        if len(good) > 1:
            spread = values["return"].std(ddof=1) / len(good) ** 0.5
            half = f" ± {student.ppf(0.975, len(good) - 1) * spread:.3f}"
        rows.append((
            mean,
            f"| {name} | {len(good)} | {mean:.3f}{half} | {values['score'].mean():.3f} "
            f"| {values['kl'].mean():.2f} | {values['distinct'].mean():.2f} "
            f"| {values['tokens'].mean():.0f} | {np.median(values['seconds']):.0f} |",
        ))  # fmt: skip
    head = "| | seeds | return | score | KL | distinct-2 | tokens | seconds |\n" + "|---" * 8 + "|"
    return "\n".join([head, *(row for _, row in sorted(rows, key=lambda row: -row[0]))])


@dataclass
class Options:
    """Train the variants of a table, and compare them."""

    name: tyro.conf.Positional[str]
    """A table of this file."""
    seeds: tuple[int, ...] = (20, 21, 22, 23, 24)
    """Choose variants on other seeds than those that are reported."""
    variants: tuple[str, ...] = ()
    """Names of variants; all of the table by default."""
    total_timesteps: int = 80_000
    """Tokens of each run."""
    env: str = "TextGen-v0"
    """Or the id of a registered task, which is judged on its held-out prompts."""
    model: str = "bundled"
    """As for train."""
    kl_coef: float = 0.1
    """β of the reward."""
    workers: int = 1
    """Runs at once, one thread each."""
    device: str = "auto"
    """"auto" uses an accelerator if there is one."""
    eval_episodes: int = 1536
    """Episodes of each evaluation."""
    output: Path = Path("runs/sweeps")
    """Folder of the files of results."""


def main(options: Options) -> None:
    """Run what is not finished, and print a table in Markdown."""
    from agents.training.device import find_device

    device = str(find_device(options.device))
    variants = TABLES[options.name]
    jobs = [
        Job(
            name, *variants[name], seed, options.total_timesteps, options.model, options.kl_coef,
            device, options.eval_episodes, options.env,
        )
        for seed in options.seeds
        for name in options.variants or variants
    ]  # fmt: skip
    file = options.output / f"{options.name}.jsonl"
    for result in sweep(jobs, file, options.workers):
        print(json.dumps(result), flush=True)
    keys = {json.dumps(job.key()) for job in jobs}
    print(table([result for result in finished(file) if json.dumps(result["key"]) in keys]))


if __name__ == "__main__":
    main(tyro.cli(Options))
