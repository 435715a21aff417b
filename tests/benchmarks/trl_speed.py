"""Samples per second of GRPO beside TRL's, one optimiser step each in turn, in one process.

    OMP_NUM_THREADS=2 python tests/benchmarks/trl_speed.py --dtype bfloat16

The same model, prompts, reward, groups and budget; both sample with a temperature of 1, compare
with a reference model, and take one step of AdamW on all samples. With ``--lengths natural`` an
episode ends at a full stop or an end of sequence, with ``full`` it always takes the whole budget.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from datasets import Dataset
from saved import publish
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from agents import GRPO
from textenv.lm import load_model, load_tokenizer
from textenv.lm.loading import hide_progress_bars

PROMPTS = ["The film was", "I thought that the story", "This movie is a bit", "The acting"]


@dataclass
class Options:
    """One comparison."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of acting and of the passes of both."""
    lengths: Literal["natural", "full"] = "natural"
    """When episodes end."""
    model: str = "smollm2"
    """As for train."""
    rows: int = 32
    """Episodes of a step."""
    group_size: int = 8
    """Episodes of a prompt."""
    budget: int = 24
    """Tokens of the longest episode."""
    rounds: int = 6
    """Steps of each, after one that warms up."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where both learn."""
    save: bool = False
    """Replace what is kept in results."""


def reward(texts: list[str]) -> list[float]:
    return [float(len(text) % 7) for text in texts]  # costs nothing, and varies


def now() -> float:
    """Seconds, when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Alternate(TrainerCallback):
    """Takes a step of the other library after each step of TRL's, and times both."""

    def __init__(self, ours: GRPO):
        self.ours, self.seconds = ours, {"this package": [], "TRL": []}
        self.tokens: list[int] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = now()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds["TRL"].append(now() - self.began)
        began = now()
        rollout = self.ours.collect()
        self.ours.update(rollout)
        self.seconds["this package"].append(now() - began)
        self.tokens.append(rollout.num_steps)


def main(options: Options) -> None:
    """Train both, and print samples per second."""
    hide_progress_bars()
    tokenizer = load_tokenizer(options.model)
    stop = tokenizer(".", add_special_tokens=False)["input_ids"][0]
    ends = [stop, tokenizer.eos_token_id] if options.lengths == "natural" else []
    full = options.lengths == "full"
    bfloat16 = options.dtype == "bfloat16"
    ours = GRPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=options.rows, group_size=options.group_size,
        batch_size=None, learning_rate=1e-5, adam_epsilon=1e-8, seed=0, device=options.device,
        env_kwargs={
            "reference": options.model, "reference_dtype": options.dtype, "kl_coef": 0.05,
            "prompts": PROMPTS, "max_new_tokens": options.budget, "stop": ends[:1] or None,
            "min_new_tokens": options.budget if full else 0,
            "reward": lambda episodes: reward([episode.response for episode in episodes]),
        },
        policy_kwargs={"model": options.model, "dtype": options.dtype},
    )  # fmt: skip
    model = load_model(options.model, dtype=torch.float32)
    model.generation_config.eos_token_id = ends or None
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if ends:  # TRL ends a response where it finds this token
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop)
    alternate = Alternate(ours)
    with tempfile.TemporaryDirectory() as folder:
        source = f"{folder}/model"  # TRL loads its reference from where the model is from
        model.save_pretrained(source)
        tokenizer.save_pretrained(source)
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=options.rows,
            num_generations=options.group_size, max_completion_length=options.budget,
            max_steps=options.rounds + 1, learning_rate=1e-5, beta=0.05, temperature=1.0,
            report_to=[], save_strategy="no", logging_strategy="no", bf16=bfloat16,
            use_cpu=options.device == "cpu",
            disable_tqdm=True, gradient_checkpointing=False, seed=0,
            model_init_kwargs={"dtype": "float32"},
            generation_kwargs={"min_new_tokens": options.budget} if full else None,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=source, args=config, processing_class=tokenizer, callbacks=[alternate],
            reward_funcs=lambda completions, **_: reward(completions),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS] * 64),
        )  # fmt: skip
        trainer.train()
    report(options, alternate)


def report(options: Options, alternate: Alternate) -> None:
    """Print the table, and keep it where this is asked for."""
    cuda = options.device == "cuda"
    where = torch.cuda.get_device_name() if cuda else "CPU"
    medians = {name: statistics.median(s[1:]) for name, s in alternate.seconds.items()}
    text = (
        f"{options.model}, {options.dtype}, {options.rows} × {options.budget} tokens, groups of "
        f"{options.group_size}, {options.lengths} lengths (mean "
        f"{statistics.mean(alternate.tokens) / options.rows:.1f}), {where}, "
        f"{torch.get_num_threads()} threads, median of {options.rounds} alternating steps"
        "\n\n| | samples/s | ratio |\n|---|---|---|\n"
        + "".join(
            f"| {name} | {options.rows / s:.2f} | {medians['TRL'] / s:.2f} |\n"
            for name, s in medians.items()
        )
    )
    command = (
        f"trl_speed.py --dtype {options.dtype} --lengths {options.lengths} "
        f"--budget {options.budget}" + (f" --rows {options.rows} --device cuda" if cuda else "")
    )
    name = f"trl-speed-{options.dtype}-{options.lengths}{'-cuda' if cuda else ''}.md"
    publish(name, command, text, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
