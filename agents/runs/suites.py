"""Suites: tasks that ask for different things, each with its budget, for ``compare --suite``.

To add a task, register it (`textenv.tasks`) and give it a line here. What an agent reached is
normalised in each task by the untouched model and the optimum, so that tasks can be put together
(`agents.evaluation.aggregates`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Suite:
    """Tasks, each with the tokens that a run may learn from, and what replaces the defaults of the
    other options of ``compare``."""

    tasks: Mapping[str, int]
    options: Mapping[str, Any]


SUITES = {
    # The bundled model, 40 minutes on two cores. With NoisySentiment-v0 it would be 47; and
    # GuessNumber-v0 takes 200,000 tokens, more than all of these together.
    "small": Suite(
        tasks={
            "Sentiment-v0": 25_000,  # a style, with a score for every text
            "LastWord-v0": 35_000,  # a target that one text in fifty hits
            "FifteenWords-v0": 35_000,  # to stop at the right place, which takes counting
            "Duet-v0": 30_000,  # a dialogue with a reward in each turn
        },
        # Rare targets need many samples of the reference.
        options={"seeds": 3, "reference_episodes": 4096},
    ),
    # A model of 135 million parameters, of which adapters learn.
    "real": Suite(
        tasks={
            "Sentiment-v0": 60_000,
            "Haiku-v0": 40_000,  # a form, for instructions in a chat
            "DigitSum-v0": 20_000,  # an answer that is right or wrong
            "Calculator-v0": 30_000,  # a tool
        },
        options={
            "seeds": 3,
            "model": "smollm2",
            "agents": ["ppo(lora=16)", "grpo(lora=16)", "rloo(lora=16)", "best-of-4"],
        },
    ),
}
