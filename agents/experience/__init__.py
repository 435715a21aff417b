"""Run a policy in an environment.

    episodes   one whole episode for each row of a text environment that scores in batches
    steps      a fixed number of steps from any Gymnasium vector environment
    segments   rows of steps, cut into one row for each episode
    precision  old log-probabilities for acting in reduced precision
    env_state  where an environment is between two steps
    undo       an error leaves everything as it was before the rollout
    collect    one rollout of an agent, with all of these

Both ways return an `agents.experience.rollout.Rollout`.
"""

from typing import Any

from gymnasium.vector import VectorEnv

from agents.experience.collect import collect_rollout
from agents.experience.episodes import EpisodeCollector, collect_episodes
from agents.experience.steps import OnStep, StepCollector, Stopped

__all__ = [
    "EpisodeCollector",
    "OnStep",
    "StepCollector",
    "Stopped",
    "collect_episodes",
    "collect_rollout",
    "make_collector",
]


def make_collector(env: VectorEnv, seed: int | None) -> Any:
    """The collector for ``env``: of whole episodes if it scores in batches, else of steps."""
    if env is env.unwrapped and getattr(env, "scoring", "step") == "batch":
        return EpisodeCollector(env, seed)
    return StepCollector(env, seed)
