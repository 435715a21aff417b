"""Policy-gradient agents for any Gymnasium environment, mainly for text environments.

The names below are imported when they are first used, so that ``import agents`` is quick.
"""

# ruff: noqa: F401
import importlib
from typing import TYPE_CHECKING, Any

import textenv  # registers TextGen-v0

if TYPE_CHECKING:
    from agents.agent import Agent
    from agents.algorithms import GRPO, PPO, REINFORCE, RLOO, TRPO, ActorCritic
    from agents.algorithms.lookahead import Lookahead
    from agents.evaluation import BestOfN, Greedy, RandomTokens, Untouched
    from agents.evaluation.evaluate import evaluate
    from agents.experience.environments import bind
    from agents.policies import CausalLMPolicy, MlpPolicy, Policy
    from agents.runs.compare import compare
    from agents.runs.suites import SUITES
    from agents.runs.train import train

_PLACES = {
    "agents.agent": ("Agent",),
    "agents.algorithms.lookahead": ("Lookahead",),
    "agents.algorithms": ("GRPO", "PPO", "REINFORCE", "RLOO", "TRPO", "ActorCritic"),
    "agents.evaluation": ("BestOfN", "Greedy", "RandomTokens", "Untouched"),
    "agents.evaluation.evaluate": ("evaluate",),
    "agents.experience.environments": ("bind",),
    "agents.policies": ("CausalLMPolicy", "MlpPolicy", "Policy"),
    "agents.runs.compare": ("compare",),
    "agents.runs.suites": ("SUITES",),
    "agents.runs.train": ("train",),
}

__all__ = [name for names in _PLACES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            found = globals()[name] = getattr(importlib.import_module(module), name)
            return found
    raise AttributeError(f"module 'agents' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
