"""Dialogues, beside a task of one turn and beside a loop that reads each prefix anew.

    python tests/benchmarks/dialogues.py

The game is `GuessNumber-v0`, four turns of one token, beside the same prompts with one turn of four
tokens: tokens of the policy per second of a rollout, in one process, alternating. Since the game
also reads a reply after each token but the last, the tokens that are read are counted as well. Then
a dialogue of 8 turns of 32 tokens on SmolLM2, whose replies have 8 tokens: with the cache that is
kept over all turns; with a decoder that is made to read every row from its beginning after each
reply, as a loop over messages does; and with one that reads every observation from its beginning,
as a policy without a cache does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
import tyro
from saved import publish

from agents.experience.episodes import collect_episodes
from agents.policies import CausalLMPolicy
from textenv import TASKS
from textenv.lm.loading import hide_progress_bars
from textenv.lm.responses import Responses

BATCH = {"autoreset_mode": "DISABLED", "scoring": "batch", "array": "torch", "copy": False}


ANEW = "each observation read anew"
AFTER_REPLIES = "each prefix read anew after a reply"
CACHED = "one cache over all turns"


@dataclass
class Options:
    rows: int = 512
    """Of the game; its settings have as many."""
    turns: int = 8
    """Of the dialogue on the real model."""
    turn_tokens: int = 32
    """Of each of its turns."""
    real_rows: int = 8
    """Of the dialogue on the real model."""
    model: str = "smollm2"
    """The real model; "" leaves it out."""
    rounds: int = 5
    """Alternating repetitions of the game, of which the median counts."""
    real_rounds: int = 1
    """Of the dialogue on the real model, which reads every observation anew for minutes."""
    save: bool = False
    """Replace what is kept in results."""


def answer(episode: Any) -> str:
    """A reply of some tokens."""
    return " Go on. What came then?"


class ReadsAnew:
    """A policy whose cache forgets a row that has grown by more than so many tokens."""

    def __init__(self, policy: CausalLMPolicy, more_than: int):
        self.policy, self.rollout_observations = policy, policy.rollout_observations
        self.more_than = more_than

    def act(self, observation: Any, state: Any, start: Any) -> Any:
        if state is not None:
            decoder = state.policy
            lengths = observation["attention_mask"].sum(1, dtype=torch.int64)
            decoder.seen_lengths[lengths - decoder.seen_lengths > self.more_than] = 0
        return self.policy.act(observation, state, start)


@torch.no_grad()
def main(options: Options) -> None:
    hide_progress_bars()
    legal = TASKS["GuessNumber-v0"].legal_tokens
    shared = {"num_envs": options.rows, "reference": "bundled", "kl_coef": 0.01, **BATCH}
    game = gym.make_vec("GuessNumber-v0", **shared)
    single = gym.make_vec(
        "TextGen-v0", prompts=game.prompts, reward="length", max_new_tokens=4, legal_tokens=legal,
        **shared,
    )  # fmt: skip
    lines = ["| | tokens/s | ratio | tokens read/s | ratio |", "|---|---|---|---|---|"]
    runs = {name: rollouts(env) for name, env in (("one turn", single), ("game", game))}
    lines += rows_of(measure(runs, options.rounds, warm_ups=1), "one turn")
    if options.model:
        tokens = options.turns * options.turn_tokens
        talk = gym.make_vec(
            "TextGen-v0", tokenizer=options.model, reward="length",
            prompts=["The film was about a man who", "One day the director"], respond=answer,
            max_turns=options.turns, max_turn_tokens=options.turn_tokens, min_new_tokens=tokens,
            max_new_tokens=tokens, max_reply_tokens=8, num_envs=options.real_rows, **BATCH,
        )  # fmt: skip
        policy = policy_for(talk, options.model, "bfloat16")
        runs = {
            CACHED: lambda: collect_episodes(talk, policy, seed=0),
            AFTER_REPLIES: lambda: collect_episodes(talk, ReadsAnew(policy, 1), seed=0),
            ANEW: lambda: collect_episodes(talk, ReadsAnew(policy, 0), seed=0),
        }
        lines += rows_of(measure(runs, options.real_rounds), ANEW)
    publish("dialogues.md", "dialogues.py", "\n".join(lines) + "\n", options.save)


def policy_for(env: Any, model: str, dtype: str) -> CausalLMPolicy:
    spaces = env.single_observation_space, env.single_action_space
    policy = CausalLMPolicy(*spaces, model=model, dtype=dtype)
    env.bind(policy)
    return policy


def rollouts(env: Any) -> Callable[[], Any]:
    policy = policy_for(env, "bundled", "float32")
    return lambda: collect_episodes(env, policy, seed=0)


def measure(
    runs: dict[str, Callable[[], Any]], rounds: int, warm_ups: int = 0
) -> dict[str, tuple[float, float]]:
    """Medians per second: of tokens of the policy, and of all tokens of dialogues after their
    prompts but those that end them, which nothing reads."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for round_ in range(warm_ups + rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            episodes = run()
            seconds = time.perf_counter() - began
            if round_ >= warm_ups:
                read = (Responses.of(episodes.observations, episodes.mask).lengths - 1).sum()
                speeds[name].append((episodes.num_steps / seconds, int(read) / seconds))
    medians = {
        name: map(statistics.median, zip(*each, strict=True)) for name, each in speeds.items()
    }
    return {name: (acted, read) for name, (acted, read) in medians.items()}


def rows_of(speeds: dict[str, tuple[float, float]], base: str) -> list[str]:
    acted, read = speeds[base]
    return [
        f"| {name} | {a:.0f} | {a / acted:.2f} | {r:.0f} | {r / read:.2f} |"
        for name, (a, r) in speeds.items()
    ]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
