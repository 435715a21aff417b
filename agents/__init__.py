"""Policy-gradient agents that drive any Gymnasium environment, text ones above all."""

import textenv  # noqa: F401  (registers TextGen-v0)
from agents.agent import Agent
from agents.algorithms import PPO, REINFORCE, ActorCritic
from agents.policies import CausalLMPolicy, MlpPolicy

__all__ = ["PPO", "REINFORCE", "ActorCritic", "Agent", "CausalLMPolicy", "MlpPolicy"]
