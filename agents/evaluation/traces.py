"""Episodes of a text agent, token by token: probability, value, KL and advantage of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.evaluation.sampling import drawing, evaluation_env, rollouts_on
from agents.experience import environments
from agents.experience.rollout import Rollout
from agents.functional import advantages as psi
from agents.policies.causal_lm import CausalLMPolicy
from textenv.rendering.ansi import colours

# Blue and orange differ for nearly everybody, also for those who do not tell red from green. All
# are light, so that black text on them can be read, and of a terminal with 256 colours.
BLUES = (195, 153, 117, 75)
ORANGES = (230, 223, 215, 208)
UNCOLOURED = 0.05  # numbers up to this share of the largest one


@dataclass(frozen=True, repr=False)
class TracedEpisode:
    """An episode of text, with one entry per token in each array ``[T]``."""

    prompt: str
    response: str
    pieces: list[str]  # each token as text, the one that ended the episode included
    replies: list[str]  # what the environment appended after each token: mostly ""
    probabilities: np.ndarray  # π(a_t|s_t)
    values: np.ndarray | None  # V(s_t) of the critic, units of the return; None without a critic
    kls: np.ndarray | None  # log π(a_t|s_t) − log π_ref(a_t|s_t), nats; None without a reference
    # A_t as the algorithm computes it, units of the return, before any scaling to mean 0 and
    # deviation 1 over a rollout.
    advantages: np.ndarray
    score: float  # of the reward, without shaping
    episode_return: float  # score − penalty − β·KL
    finish_reason: str  # as of `textenv.Episode`

    def __repr__(self) -> str:
        return f"TracedEpisode({self.prompt!r} ▸ {self.response!r}; {', '.join(self.summary)})"

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The numbers of each token that there are, by their names."""
        every = {"value": self.values, "KL": self.kls, "advantage": self.advantages}
        return {name: values for name, values in every.items() if values is not None}

    @property
    def summary(self) -> list[str]:
        """Score, KL, return, length and end of the episode, each in words."""
        parts = [f"score {self.score:+z.2f}"]
        if self.kls is not None:
            parts.append(f"KL {self.kls.sum():z.2f} nats")
        parts.append(f"return {self.episode_return:+z.2f}")
        ends = {
            "stop": "stopped by itself",
            "length": "cut at the token budget",
            "end": "ended by the environment",
            "turns": "ended after the last turn",
        }
        reason = ends.get(self.finish_reason, self.finish_reason)
        return [*parts, f"{len(self.pieces)} tokens, {reason}"]


def trace_episodes(
    agent: Any,
    n_episodes: int = 1,
    seed: int = 0,
    prompts: Any = None,
    deterministic: bool = False,
) -> list[TracedEpisode]:
    """Sample episodes in an environment of their own, and look at each token.

    Where the algorithm compares an episode with others of its group, these are sampled too.

    The agent's random generator is not changed. ``prompts`` are other ones than those of its
    environment, as for `gymnasium.make`. ``deterministic`` always takes the most likely token: all
    of a group are then equal.
    """
    policy = agent.policy
    group = agent.group_size if agent.compares_groups else 1
    changes = {} if prompts is None else {"prompts": prompts}
    own = evaluation_env(agent.env, policy, group, **changes)
    own.bind(policy)
    kl_coef = environments.kl_coef(agent.env)
    chosen = np.random.default_rng(seed).integers(len(own.prompts), size=n_episodes)
    acting = MostLikely(policy) if deterministic else policy
    with drawing(policy, seed):
        rollouts = rollouts_on(own, acting, np.repeat(chosen, own.num_envs))
    tokenizer = own.task.tokenizer
    return [first_episode(agent, shaped(rollout, kl_coef), tokenizer) for rollout in rollouts]


class MostLikely:
    """A policy whose most likely token is taken. Its probabilities and values stay those of the
    policy that samples, unlike those of `agents.policies.acting.GreedyPolicy`."""

    def __init__(self, policy: CausalLMPolicy):
        self.policy, self.rollout_observations = policy, policy.rollout_observations

    def act(self, observation: Any, state: Any = None, episode_start: Any = None) -> tuple:
        return self.policy.act(observation, state, episode_start, deterministic=True)


# --- one token ----------------------------------------------------------------------------------


def shades(numbers: Sequence[float] | np.ndarray) -> list[int | None]:
    """The colour of the ground of each token: blue above 0, orange below, None near 0; its strength
    is relative to the largest of these numbers (`textenv.rendering.ansi.rgb` has its parts)."""
    return colours(numbers, BLUES, ORANGES, UNCOLOURED)


def token_kls(rollout: Rollout) -> Tensor | None:
    """log π − log π_ref ``[B, T]``, nats, 0 where no step counts; None without a reference."""
    if rollout.reference_log_probs is None:
        return None
    return (rollout.log_probs - rollout.reference_log_probs) * rollout.mask


def shaped(rollout: Rollout, kl_coef: float) -> Rollout:
    """The rollout with the cost of its KL, β times that of each token, in the rewards."""
    kls = token_kls(rollout)
    if kls is None or kl_coef == 0:
        return rollout
    return replace(rollout, rewards=rollout.rewards - kl_coef * kls)


def advantages(agent: Any, rollout: Rollout) -> Tensor:
    """A_t ``[B, T]`` as the agent's algorithm computes it, in units of the return.

    GAE with a critic, the comparison within the group where there are groups, else the return from
    t on minus the baseline.
    """
    if has_critic(agent):
        return rollout.generalized_advantages(agent.gamma, agent.gae_lambda)
    if agent.compares_groups:
        compare = getattr(agent, "advantage_fn", psi.leave_one_out)
        return rollout.group_advantages(compare, agent.gamma, len(rollout.mask))
    return rollout.returns_to_go(agent.gamma) - (getattr(agent, "baseline", None) or 0.0)


def has_critic(agent: Any) -> bool:
    """Whether the agent's values mean anything: only with GAE a critic is trained."""
    return hasattr(agent, "gae_lambda")


@torch.no_grad()
def first_episode(agent: Any, rollout: Rollout, tokenizer: Any) -> TracedEpisode:
    """The episode of the first row of a rollout of whole episodes."""
    mask, kls = rollout.mask[0], token_kls(rollout)

    def column(values: Tensor) -> np.ndarray:
        return values[0][mask].float().cpu().numpy()

    actions = rollout.actions[0][mask].tolist()
    return TracedEpisode(
        prompt=rollout.episodes["prompt"][0],
        response=rollout.episodes["response"][0],
        # Each token of a character that is spread over several is a replacement character.
        pieces=[tokenizer.decode([token]) for token in actions],
        replies=replies_after(rollout, len(actions), tokenizer),
        probabilities=column(rollout.log_probs.exp()),
        values=column(rollout.values) if has_critic(agent) else None,
        kls=None if kls is None else column(kls),
        advantages=column(advantages(agent, rollout)),
        score=float(rollout.episodes["score"][0]),
        episode_return=float(rollout.rewards[0][mask].sum()),
        finish_reason=rollout.episodes["finish_reason"][0],
    )


def replies_after(rollout: Rollout, num_steps: int, tokenizer: Any) -> list[str]:
    """What follows each of the first row's actions before the next one, as text."""
    own_tokens = rollout.observations.get("own_tokens")
    if own_tokens is None:
        return [""] * num_steps
    tokens = rollout.observations["input_ids"][0]
    columns = torch.as_tensor(own_tokens[0]).nonzero()[:, 0].tolist()[:num_steps]
    return [*(tokenizer.decode(tokens[at + 1 : then]) for at, then in pairwise(columns)), ""]
