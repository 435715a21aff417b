"""Rollouts whose episodes end at different times, with and without the rows that have ended.

    python tests/benchmarks/ragged.py --model smollm2 --dtype bfloat16

The end of each episode is drawn, a quarter of the budget on average, and forced by its stop token.
Without compaction every row steps until the last one has ended, as in `model.generate`. Both loops
count the tokens of the episodes only, and alternate in one process.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import gymnasium as gym
import torch
import tyro
from decoding import measure
from saved import publish

from agents.experience.episodes import collect_episodes
from agents.policies import CausalLMPolicy
from agents.policies.decoding import Decoders
from textenv.arrays import TokenObservation
from textenv.lm import load_tokenizer
from textenv.lm.loading import hide_progress_bars


@dataclass
class Options:
    model: str = "smollm2"
    """As in `python -m agents train`."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the model that generates."""
    rows: int = 64
    """Episodes at once."""
    budget: int = 64
    """Tokens of the longest episode."""
    rounds: int = 5
    """Alternating repetitions, of which the median counts."""
    save: bool = False
    """Replace what is kept in results."""


class Ending:
    """A policy whose episodes end where they are told to.

    Args:
        policy: chooses all other tokens.
        ends: the length of each row's episode ``[B]``.
        stop: the token that ends it.
    """

    def __init__(self, policy: CausalLMPolicy, ends: torch.Tensor, stop: int):
        self.policy, self.ends, self.stop, self.steps = policy, ends, stop, 0
        self.rollout_observations = policy.rollout_observations

    def act(self, observation: Any, state: Any = None, start: Any = None) -> tuple:
        self.steps = 1 if state is None else self.steps + 1
        actions, log_probs, values, state = self.policy.act(observation, state, start)
        stops = torch.full_like(actions, self.stop)
        return torch.where(self.ends == self.steps, stops, actions), log_probs, values, state


@torch.no_grad()
def main(options: Options) -> None:
    hide_progress_bars()
    tokenizer = load_tokenizer(options.model)
    stop = tokenizer.eos_token_id
    env = gym.make_vec(
        "TextGen-v0", num_envs=options.rows, tokenizer=tokenizer, reward="length",
        prompts=["The film was", "I thought that the story", "This movie is a bit", "The acting"],
        max_new_tokens=options.budget, autoreset_mode="DISABLED", scoring="batch", array="torch",
        copy=False,
    )  # fmt: skip
    policy = CausalLMPolicy(
        env.single_observation_space, env.single_action_space, model=options.model,
        dtype=options.dtype, banned_tokens=(stop,),
    )  # fmt: skip
    drawn = torch.empty(options.rows).exponential_(
        4 / options.budget, generator=torch.Generator().manual_seed(0)
    )
    ends = drawn.ceil().clamp(max=options.budget).long()
    ending, tokens = Ending(policy, ends, stop), int(ends.sum())

    def compacted() -> None:
        policy.decoders = Decoders()
        found = collect_episodes(env, ending, seed=0)
        assert found.num_steps == tokens

    def whole() -> None:
        policy.decoders = Decoders(captured=True)  # steps all rows, as on CUDA
        with mock.patch.object(TokenObservation, "running", mock.PropertyMock(return_value=None)):
            collect_episodes(env, ending, seed=0)

    seconds = measure(
        {"rows that have ended leave": compacted, "all rows step": whole}, options.rounds, "cpu"
    )
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    slow = medians["all rows step"]
    text = (
        f"{options.model}, {options.dtype}, {options.rows} rows, budget {options.budget}, mean "
        f"length {tokens / options.rows:.1f}, CPU, {torch.get_num_threads()} threads, median of "
        f"{options.rounds} alternating rounds\n\n| | tokens/s | ratio |\n|---|---|---|\n"
        + "".join(f"| {n} | {tokens / s:.0f} | {slow / s:.2f} |\n" for n, s in medians.items())
    )
    command = f"ragged.py --model {options.model} --dtype {options.dtype}"
    name = f"ragged-{Path(options.model).stem}-{options.dtype}-cpu.md"
    publish(name, command, text, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options))
