"""TRL's GRPO and RLOO on the bundled model, in a task of one turn, judged by our evaluation.

    OMP_NUM_THREADS=1 python tests/benchmarks/trl_peers.py --env LastWord-v0 --total-timesteps 35000
    OMP_NUM_THREADS=1 python tests/benchmarks/trl_peers.py --algorithm rloo --env Sentiment-v0

Model, prompts, reward, token budget and held-out prompts are those of the task, and the number of
tokens is that of a run of ours, so that a row can stand beside those of ``compare --suite small``.
TRL's GRPO has β in its loss, where it weights k3 as a mean over tokens beside advantages that are
scaled, so that it is not in units of the score; its RLOO has β in the reward, as we do.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from agents import PPO
from agents.evaluation import evaluate_text
from agents.runs.train import measure_attainable
from textenv import TASKS, Episode
from textenv.lm import load_model, load_tokenizer

OF_TEXTGEN = {"prompts": "bundled", "reward": "sentiment", "max_new_tokens": 24}
EVALUATION_SEED = 1_000_000


@dataclass
class Options:
    """One run."""

    algorithm: Literal["grpo", "rloo"] = "grpo"
    """Of TRL."""
    env: str = "Sentiment-v0"
    """A registered task of one turn; TextGen-v0 is judged on the prompts that it learns from."""
    learning_rate: float = 2e-4
    """Its peak; it is annealed linearly to 0."""
    beta: float = 0.3
    """β of TRL's loss (GRPO) or reward (RLOO)."""
    adam_epsilon: float = 1e-4
    """Of AdamW."""
    rows: int = 64
    """Episodes per optimiser step."""
    group_size: int = 8
    """Episodes of a prompt."""
    total_timesteps: int = 25_000
    """Tokens; the last step is completed."""
    eval_episodes: int = 1536
    """Of the evaluation."""
    reference_episodes: int = 4096
    """Of the untouched model, for the optimum; 0 leaves it out."""
    seed: int = 0
    """Of prompts and sampling."""
    device: str = "cpu"
    """Or "cuda"."""


class StopAfterTokens(TrainerCallback):
    """Ends the training at a number of generated tokens."""

    def __init__(self, total: int):
        self.total, self.taken = total, 0

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = self.taken >= self.total


class AnnealedByTokens:
    """The learning rate falls linearly to 0 with the tokens, not with a guessed number of steps."""

    def __init__(self, count: StopAfterTokens, **keywords):
        self.count = count
        super().__init__(callbacks=[count], **keywords)

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda _: max(0.0, 1 - self.count.taken / self.count.total)
        )
        return self.lr_scheduler


class GRPO(AnnealedByTokens, GRPOTrainer):
    config = GRPOConfig


class RLOO(AnnealedByTokens, RLOOTrainer):
    config = RLOOConfig


def main(options: Options) -> None:
    """Train, evaluate, and print a row of the table."""
    if options.env not in (*TASKS, "TextGen-v0"):
        raise SystemExit(f"{options.env} is no registered task of this project.")
    task = TASKS.get(options.env)
    kl_coef = task.kl_coef if task is not None and task.kl_coef else 0.1
    arguments: dict[str, Any] = {} if task is not None else dict(OF_TEXTGEN)
    agent = PPO(  # never learns: it says what the task is, and what is attainable in it
        "CausalLMPolicy", options.env, device=options.device,
        env_kwargs={**arguments, "reference": "bundled", "kl_coef": kl_coef},
    )  # fmt: skip
    env = agent.env.unwrapped
    prompts, budget = env.prompts, env.task.max_new_tokens
    if env.task.respond is not None or env.task.arguments["stop"]:
        raise SystemExit(f"{options.env} has replies or stop strings, which TRL's trainers do not.")
    tokenizer, count = load_tokenizer("bundled"), StopAfterTokens(options.total_timesteps)
    tokenizer.padding_side = "left"

    def reward(prompts, completions, completion_ids, row, **columns) -> list[float]:
        count.taken += sum(map(len, completion_ids))
        return [float(score) for score in env.task.reward(list(map(episode, row, completion_ids)))]

    def episode(row: int, ids: list[int]) -> Episode:
        prompt = prompts[row]
        ended = "stop" if ids and ids[-1] == tokenizer.eos_token_id else "length"
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return Episode(prompt.text, text, np.array(prompt.ids), np.array(ids), ended, prompt.data)

    rows = [{"prompt": prompt.text, "row": row} for row, prompt in enumerate(prompts)]
    trainer_class = {"grpo": GRPO, "rloo": RLOO}[options.algorithm]
    trainer = trainer_class(
        count,
        model=load_model("bundled"),
        reward_funcs=reward,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows * 50),
        args=trainer_class.config(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=options.rows,
            num_generations=options.group_size, max_completion_length=budget, beta=options.beta,
            learning_rate=options.learning_rate, adam_epsilon=options.adam_epsilon,
            # At one token a response; the tokens end it.
            max_steps=max(1, options.total_timesteps // options.rows),
            temperature=1.0, use_cpu=options.device == "cpu",
            bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, seed=options.seed,
        ),
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    held_out = None if task is None else task.held_out
    found = evaluate_text(
        trainer.model, agent.env, options.eval_episodes, EVALUATION_SEED, prompts=held_out,
        draw=options.seed,
    )  # fmt: skip
    share = ""
    attainable = measure_attainable(agent, kl_coef, options.reference_episodes, held_out)
    if attainable is not None:
        start, optimum = np.mean(np.concatenate(attainable.scores)), attainable.optimum.value
        share = f"{(found.returns.mean() - start) / (optimum - start):.2f}"
    print(
        f"| TRL {options.algorithm.upper()} on {options.env}, lr {options.learning_rate:g}, "
        f"β {options.beta:g}, eps {options.adam_epsilon:g}, {options.rows} rows, seed "
        f"{options.seed} | {share} | {found.returns.mean():.3f} | {found.scores.mean():.3f} | "
        f"{found.kls.mean():.2f} | {count.taken} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
