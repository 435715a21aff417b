"""Texts of a policy in a task: the one way to sample them."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents import policies
from agents.experience import environments
from agents.experience.episodes import collect_episodes
from agents.experience.rollout import Rollout, Step, joined
from agents.policies import CausalLMPolicy
from agents.training.device import find_device
from agents.training.progress import episodes_bar
from textenv.vector_env import TextGenVectorEnv

ROWS = 8  # of an environment that only says which task it is
MAX_ROWS = 256  # of an environment to evaluate in; another number of rows gives other random texts
TOKENS_AT_ONCE = 2**14  # rows times the longest episode


@dataclass(frozen=True)
class Sampler:
    """A policy in a text environment, which answers and never learns."""

    policy: Any  # see `agents.policies.base.Policy`
    env: Any  # says in which task, and has the reference


def sampler(
    model: Any,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    **policy_kwargs: Any,
) -> Sampler:
    """A language model as it is, in the task of an id; ``model`` and ``policy_kwargs`` are as of
    `agents.policies.CausalLMPolicy`."""
    place, given = find_device(device), {"model": model, **policy_kwargs}
    env = environments.for_agent(env_id, CausalLMPolicy, given, ROWS, env_kwargs, 1, place)
    reference = environments.reference(env)
    return Sampler(policies.make(CausalLMPolicy, env, {}, given, None, place, reference), env)


@dataclass(frozen=True, repr=False)
class Samples:
    """Episodes of text, one entry per episode."""

    prompts: list[str]
    responses: list[str]
    scores: list[float]  # of the environment's reward, or of another one that was given
    returns: list[float]  # the scores minus the penalty of an episode that never stopped
    # Of which the prompts were made; None for a plain text.
    messages: list[tuple[Mapping[str, Any], ...] | None]

    def __repr__(self) -> str:
        return f"Samples of {len(self.scores)} episodes, mean score {np.mean(self.scores):+.3f}"

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


def evaluation_env(env: Any, policy: Any, n_episodes: int, **changes: Any) -> TextGenVectorEnv:
    """A native environment of the same task, whose rewards are not shaped.

    Args:
        env: any text environment, single, vector or wrapped.
        policy: what will act in it, on the same device.
        n_episodes: how many episodes are wanted, at least as many as there are rows.
        changes: other arguments of the task.

    Raises:
        ValueError: there is no text environment, or it is on another device.
    """
    check_text(env)
    found = environments.text_environments(env)
    shaping = None if changes.get("reference", True) is None else found[0].shaping
    if shaping is not None and shaping.reference.device.type != policy.device.type:
        raise ValueError(
            f"The agent is on {policy.device}, the environment's reference on "
            f"{shaping.reference.device}: make the environment with the agent's device."
        )
    rows = min(n_episodes, max(8, min(MAX_ROWS, TOKENS_AT_ONCE // found[0].task.max_length)))
    return found[0].sibling(
        rows, autoreset_mode=AutoresetMode.DISABLED, scoring="batch", array="torch",
        device=policy.device, copy=False, group_size=1, **changes,
    )  # fmt: skip


def check_text(env: Any) -> None:
    """Raise an error unless there is a text environment inside ``env``."""
    if not environments.text_environments(env):
        raise ValueError(
            f"{env} is no text environment: evaluate_returns measures agents in any other."
        )


@contextmanager
def drawing(policy: Any, seed: int, draw: int = 0) -> Iterator[None]:
    """A block in which a policy draws by a seed; afterwards its generator is as it was before.
    Another ``draw`` gives other actions."""
    before = policy.generator.get_state()
    policy.seed(
        seed if draw == 0 else int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
    )
    try:
        yield
    finally:
        policy.generator.set_state(before)


def rollouts_on(
    env: TextGenVectorEnv, policy: Any, prompt_index: Sequence[int] | np.ndarray
) -> list[Rollout]:
    """Episodes on prompts that are named by their index, in their order.

    The last rollout repeats some of its prompts, if the rows are not all needed.
    """
    wanted, rows = np.asarray(prompt_index), env.num_envs
    chosen = (np.resize(wanted[begin:], rows) for begin in range(0, len(wanted), rows))
    return _collected(env, policy, len(wanted), ({"options": {"prompt_index": c}} for c in chosen))


def random_rollouts(
    env: TextGenVectorEnv, policy: Any, n_episodes: int, seed: int
) -> tuple[list[Rollout], float]:
    """At least so many episodes on prompts that depend only on the seed; the seconds they took."""
    began, count = time.perf_counter(), -(-n_episodes // env.num_envs)
    resets = ({"seed": None if number else seed} for number in range(count))
    return _collected(env, policy, n_episodes, resets), time.perf_counter() - began


def _collected(
    env: TextGenVectorEnv, policy: Any, n_episodes: int, resets: Iterable[dict[str, Any]]
) -> list[Rollout]:
    """A rollout for each reset, with a bar of the episodes that have ended."""
    rollouts = list[Rollout]()
    with episodes_bar(n_episodes) as show:

        def on_step(step: Step) -> bool:
            assert show is not None
            show((len(rollouts) + 1) * env.num_envs - int(env.running.sum()))
            return True

        for reset in resets:
            rollouts.append(collect_episodes(env, policy, on_step if show else None, **reset))
    return rollouts


def sample_on(
    env: TextGenVectorEnv, policy: Any, prompt_index: Sequence[int] | np.ndarray
) -> Samples:
    """One episode for each prompt that is named by its index, in an `evaluation_env`."""
    episodes = joined(rollout.episodes for rollout in rollouts_on(env, policy, prompt_index))
    conversations = (env.prompts[index].data.get("prompt") for index in prompt_index)
    messages = [tuple(found) if found else None for found in conversations]
    prompts, responses, scores, returns = (
        episodes[name][: len(prompt_index)] for name in ("prompt", "response", "score", "return")
    )
    return Samples(prompts, responses, scores, returns, messages)


def sample(actor: Any, n_episodes: int, seed: int, draw: int = 0, **changes: Any) -> Samples:
    """Episodes of an agent on prompts that depend only on the seed.

    Args:
        actor: an agent whose policy generates text, or a `Sampler`. Its random generator is not
            changed.
        n_episodes: their number.
        seed: the seed of the prompts and of the actions.
        draw: another number gives other actions on the same prompts.
        changes: other arguments of its task, such as ``prompts`` or ``reward``.
    """
    env = evaluation_env(actor.env, actor.policy, n_episodes, reference=None, **changes)
    prompt_index = np.random.default_rng(seed).integers(len(env.prompts), size=n_episodes)
    with drawing(actor.policy, seed, draw):
        return sample_on(env, actor.policy, prompt_index)
