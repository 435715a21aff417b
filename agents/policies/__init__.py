"""Policies: what chooses actions. An agent takes one by its name or as a class."""

from __future__ import annotations

from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.mlp import MlpPolicy

__all__ = ["CausalLMPolicy", "MlpPolicy"]
