"""TRL's GRPO on the bundled model, by the return: equal model, prompts, reward and tokens as ours.

    OMP_NUM_THREADS=1 python tests/benchmarks/trl_grpo.py --learning-rate 1e-4 --beta 0.1

Both are judged by our evaluation: E[score] − 0.1·KL over 1,536 episodes. TRL's β weights k3 in the
loss, as a mean over tokens of advantages that are scaled, so that it is not in units of the score:
it is tuned together with the learning rate, and the table shows every run.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass

import tyro
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from agents import PPO
from agents.evaluation import evaluate_text
from textenv.lm import load_model, load_tokenizer
from textenv.prompts.load import load_prompts

KL_COEF, MAX_NEW_TOKENS, EVALUATION_SEED = 0.1, 24, 1_000_000


@dataclass
class Options:
    """One run of TRL's GRPO."""

    learning_rate: float = 1e-4
    """Its peak; it is annealed linearly to 0."""
    beta: float = 0.1
    """β of TRL's loss."""
    adam_epsilon: float = 1e-8
    """Of AdamW."""
    rows: int = 64
    """Episodes per optimiser step."""
    total_timesteps: int = 150_000
    """Tokens; the last step is completed."""
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


class AnnealedByTokens(GRPOTrainer):
    """Its learning rate falls linearly to 0 with the tokens, not with a guessed number of steps."""

    def __init__(self, count: StopAfterTokens, **keywords):
        self.count = count
        super().__init__(callbacks=[count], **keywords)

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda _: max(0.0, 1 - self.count.taken / self.count.total)
        )
        return self.lr_scheduler


def main(options: Options) -> None:
    """Train, evaluate, and print a row of the table."""
    analyzer = SentimentIntensityAnalyzer()
    tokenizer, count = load_tokenizer("bundled"), StopAfterTokens(options.total_timesteps)
    tokenizer.padding_side = "left"

    def sentiment(prompts, completions, completion_ids, **columns) -> list[float]:
        count.taken += sum(map(len, completion_ids))
        return [analyzer.polarity_scores(text)["compound"] for text in completions]

    prompts = [{"prompt": prompt.text} for prompt in load_prompts("bundled")]
    most = options.total_timesteps // options.rows  # steps, at one token a response
    trainer = AnnealedByTokens(
        count,
        model=load_model("bundled"),
        reward_funcs=sentiment,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(prompts * 50),
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=options.rows,
            num_generations=8, max_completion_length=MAX_NEW_TOKENS, beta=options.beta,
            learning_rate=options.learning_rate, adam_epsilon=options.adam_epsilon,
            max_steps=most, temperature=1.0, use_cpu=options.device == "cpu",
            bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, seed=options.seed,
        ),
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    agent = PPO(  # never learns: it holds the model while it is evaluated
        "CausalLMPolicy", "TextGen-v0", device=options.device,
        policy_kwargs={"model": trainer.model},
        env_kwargs={"reference": "bundled", "kl_coef": KL_COEF, "max_new_tokens": MAX_NEW_TOKENS},
    )  # fmt: skip
    result = evaluate_text(agent, n_episodes=1536, seed=EVALUATION_SEED)
    print(
        f"| TRL GRPO, lr {options.learning_rate:g}, β {options.beta:g}, eps "
        f"{options.adam_epsilon:g}, {options.rows} rows, seed {options.seed} | "
        f"{result.returns.mean():.3f} | {result.scores.mean():.3f} | {result.kls.mean():.2f} | "
        f"{count.taken} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
