"""Policies, which choose actions. An agent accepts a policy by its name or as a class."""

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from agents.policies.base import Policy, check_policy
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.mlp import MlpPolicy
from textenv.arguments import unknown_argument

__all__ = ["CausalLMPolicy", "MlpPolicy", "Policy"]
# What an agent passes itself.
OF_THE_AGENT = ("observation_space", "action_space", "device", "seed", "reference")
NAMES: dict[str, Any] = {"CausalLMPolicy": CausalLMPolicy, "MlpPolicy": MlpPolicy}


def find(policy: str | type) -> Any:
    """The class of a policy's name; a class is returned as it is."""
    if not isinstance(policy, str):
        return policy
    if policy not in NAMES:
        raise ValueError(
            f"policy={policy!r} is unknown: use one of {', '.join(NAMES)}, or pass a class."
        )
    return NAMES[policy]


def make(
    cls: Any,
    env: VectorEnv,
    needs: Mapping[str, Any],
    policy_kwargs: Mapping[str, Any],
    seed: int | None,
    device: torch.device,
    reference: Any = None,
) -> Any:
    """Make a policy of the class ``cls`` for one row of an environment, and check its contract.

    ``needs`` is what the algorithm needs of a language model; ``policy_kwargs`` take precedence.
    The seed of new weights and the environment's reference are passed on to a class that has such
    arguments.
    """
    check_policy(cls)
    takes = inspect.signature(cls).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        known = [name for name in takes if name not in OF_THE_AGENT]
        for name in policy_kwargs:
            if name not in takes:
                sentence = unknown_argument(cls.__name__, name, known)
                raise TypeError(f"policy_kwargs: {sentence} It has {', '.join(known)}.")
    keywords = {"device": device, **policy_kwargs}
    if getattr(cls, "sequential", False):
        keywords = {**needs, **keywords}
    if seed is not None and "seed" in takes:
        keywords.setdefault("seed", seed)
    if "reference" in takes:
        keywords.setdefault("reference", reference)
    policy = cls(env.single_observation_space, env.single_action_space, **keywords)
    check_policy(policy)
    return policy


def predict(
    policy: Any,
    action_space: gym.Space,
    observation: Any,
    state: Any = None,
    episode_start: Any = None,
    deterministic: bool = False,
) -> tuple[np.ndarray, Any]:
    """Actions for one observation or a batch of them (`agents.Agent.predict`)."""
    batched = policy.is_batched(observation)
    if not batched and isinstance(observation, dict):
        observation = {key: np.asarray(value)[None] for key, value in observation.items()}
    elif not batched:
        observation = np.asarray(observation)[None]
    actions, _, _, state = policy.act(observation, state, episode_start, deterministic)
    actions = actions.cpu().numpy()
    if isinstance(action_space, gym.spaces.Box):
        actions = np.clip(actions, action_space.low, action_space.high)
    return (actions if batched else actions[0]), state
