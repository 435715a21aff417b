"""Several optimiser steps on a rollout, which a ratio of probabilities makes right."""

from typing import Annotated

from agents.agent import Agent
from agents.training.hyperparameters import AUTO
from textenv.arguments import Range


class TakesSeveralSteps(Agent):
    """An agent that passes over a rollout several times, in minibatches."""

    batch_size: Annotated[int | None, Range(1)] = AUTO
    """Rows per optimiser step, which are episodes of text, or single steps of anything else; whole
    groups, where rows are in groups. None takes the whole rollout."""
    n_epochs: Annotated[int, Range(1)] = AUTO
    "Passes over each rollout."
