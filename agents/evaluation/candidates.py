"""What can be evaluated beside agents: candidates that need no training, models of others."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import nn

from agents import policies
from agents.experience import environments
from agents.policies import CausalLMPolicy
from agents.policies.acting import (
    ActingPolicy,
    ForeignPolicy,
    GreedyPolicy,
    ReferencePolicy,
    UniformPolicy,
)
from agents.sb3.policy import CausalLMMembers
from textenv.lm.log_probs import Sampling


@dataclass(frozen=True)
class Untouched:
    """The reference model as it is, from which every agent starts."""


@dataclass(frozen=True)
class Greedy:
    """The reference model's most likely token at each step.

    A policy that does not draw is far from one that does: its KL is −log π_ref of its text.
    """


@dataclass(frozen=True)
class RandomTokens:
    """Every token that may be chosen, with the same probability."""


@dataclass(frozen=True)
class BestOfN:
    """The best of n ≥ 1 texts of the reference model, by the reward of the task.

    It is paid for with n times the tokens at each answer. Its KL is not sampled: it is at most
    log n − (n − 1)/n (Beirami et al. 2024, theorem 3.1), which is taken as the KL of every
    episode. The bound is tight if no two texts score the same.
    """

    n: int

    def __post_init__(self):
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"n={self.n!r} must be a whole number, at least 1.")


UNTRAINED = Untouched | Greedy | RandomTokens | BestOfN


def as_predictor(candidate: Any, env: Any = None) -> Any:
    """Something with the ``predict`` of stable-baselines3: the candidate itself, or one that is a
    policy, whose actions are in the space of ``env``, or a function of the observation."""
    if isinstance(candidate, UNTRAINED):
        raise TypeError(f"{candidate} is a candidate for environments of text.")
    if hasattr(candidate, "predict") and not isinstance(candidate, type):
        return candidate
    if hasattr(candidate, "act") and not isinstance(candidate, type):
        space: Any = getattr(env, "single_action_space", getattr(env, "action_space", None))
        return SimpleNamespace(predict=partial(policies.predict, candidate, space))
    if callable(candidate) and not isinstance(candidate, nn.Module | type):
        return SimpleNamespace(
            predict=lambda observation, state=None, *_, **__: (candidate(observation), state)
        )
    raise TypeError(
        f"A {type(candidate).__name__} cannot be evaluated: give an agent, its folder, a policy, a "
        "model with predict(), or a function from observations to actions."
    )


def env_of(candidate: Any) -> Any:
    """The environment that an agent or a model of stable-baselines3 brings along."""
    of_sb3 = getattr(candidate, "get_env", lambda: None)()
    env = getattr(candidate, "env", of_sb3)
    if env is None:
        raise ValueError(
            f"{type(candidate).__name__} has no environment of its own: pass one, env=."
        )
    return env


def text_policy(candidate: Any, env: Any, deterministic: bool = False) -> Any:
    """What acts for a candidate in a text environment, whose reference acts for those that need no
    training. A candidate is anything that `agents.evaluate` takes, except a folder."""
    text_env = environments.text_environments(env)[0]
    actions = text_env.task.spaces[1]
    sampling = Sampling(vocabulary=int(actions.n), forbids_early_stops=True)
    sampling = sampling.banning(getattr(actions, "illegal", ()))
    if isinstance(candidate, UNTRAINED):
        policy: Any = _untrained(candidate, text_env, sampling)
    else:
        policy = getattr(candidate, "policy", candidate)
        policy = policy.lm if isinstance(policy, CausalLMMembers) else policy
        if isinstance(policy, nn.Module) and hasattr(policy, "generate"):  # of transformers
            policy = CausalLMPolicy(*text_env.task.spaces, model=policy, device=str(policy.device))
            environments.bind(text_env, policy)
    if not hasattr(policy, "act"):
        return ForeignPolicy(as_predictor(candidate), sampling, deterministic)
    return GreedyPolicy(policy) if deterministic else policy


def _untrained(candidate: Any, text_env: Any, sampling: Sampling) -> ActingPolicy:
    if isinstance(candidate, RandomTokens):
        shaping = text_env.shaping
        device = text_env.task.device if shaping is None else shaping.reference.device
        return UniformPolicy(sampling, device)
    if text_env.shaping is None:
        raise ValueError(
            f"{candidate} is a candidate of the reference model, but the environment has none: "
            "make it with reference=."
        )
    policy = ReferencePolicy(text_env.shaping.reference, sampling)
    return GreedyPolicy(policy) if isinstance(candidate, Greedy) else policy
