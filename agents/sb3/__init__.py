"""Text environments and language models for stable-baselines3.

vec_env    any Gymnasium vector environment as a `VecEnv`
policy     an `ActorCriticPolicy` over a causal language model that keeps its cache
models     an algorithm of stable-baselines3 on text, made by name
maskable   the same for sb3-contrib's MaskablePPO (imports sb3_contrib)
actions    actions that remember which policy chose them, for KL shaping
"""

from agents.sb3.policy import LiveModel, SB3CausalLMPolicy
from agents.sb3.vec_env import SB3VecEnv, text_vec_env

__all__ = ["LiveModel", "SB3CausalLMPolicy", "SB3VecEnv", "text_vec_env"]
