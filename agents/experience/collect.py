"""The collector of an environment: of whole episodes, or of a number of steps."""

from typing import Any

from gymnasium.vector import VectorEnv

from agents.experience.episodes import EpisodeCollector
from agents.experience.steps import StepCollector


def make_collector(env: VectorEnv, seed: int | None) -> Any:
    """The collector for ``env``: of whole episodes if it scores in batches, else of steps."""
    if env is env.unwrapped and getattr(env, "scoring", "step") == "batch":
        return EpisodeCollector(env, seed)
    return StepCollector(env, seed)
