"""Policy-gradient agents for any Gymnasium environment, mainly for text environments."""

import textenv  # noqa: F401  (registers TextGen-v0)
from agents.agent import Agent
from agents.algorithms import GRPO, PPO, REINFORCE, RLOO, TRPO, ActorCritic
from agents.evaluation import BestOfN, Greedy, RandomTokens, Untouched
from agents.evaluation.evaluate import evaluate
from agents.experience.environments import bind
from agents.policies import CausalLMPolicy, MlpPolicy, Policy
from agents.runs.compare import compare
from agents.runs.train import train

__all__ = [
    "GRPO",
    "PPO",
    "REINFORCE",
    "RLOO",
    "TRPO",
    "ActorCritic",
    "Agent",
    "BestOfN",
    "CausalLMPolicy",
    "Greedy",
    "MlpPolicy",
    "Policy",
    "RandomTokens",
    "Untouched",
    "bind",
    "compare",
    "evaluate",
    "train",
]
