"""Texts of several agents on the same prompts, and pairs of them for somebody to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from agents.evaluation.text import own_environment, seed_of
from agents.experience import environments
from agents.experience.episodes import collect_episodes
from agents.preferences.pairs import Pair

MAX_DRAWS = 20  # rounds of drawing pairs anew whose two responses are equal


@dataclass(frozen=True)
class Samples:
    """Episodes of text, one entry per episode.

    Attributes:
        prompts, responses: texts.
        scores: of the environment's reward, or of another one that was given.
        returns: the scores minus the penalty of an episode that never stopped.
        messages: of which the prompts were made; None for a plain text.
    """

    prompts: list[str]
    responses: list[str]
    scores: list[float]
    returns: list[float]
    messages: list[tuple[Mapping[str, Any], ...] | None]

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


def sample_on(own: Any, policy: Any, prompt_index: Sequence[int] | np.ndarray) -> Samples:
    """One episode for each prompt that is named by its index.

    Args:
        own: of `own_environment`.
        policy: what acts.
        prompt_index: indices of prompts; one may be named several times.
    """
    samples = Samples([], [], [], [], [])
    while len(samples.scores) < len(prompt_index):
        # The last batch repeats some prompts; what is beyond the plan is dropped below.
        index = np.resize(np.asarray(prompt_index)[len(samples.scores) :], own.num_envs)
        episodes = collect_episodes(own, policy, options={"prompt_index": index}).episodes
        samples.prompts.extend(own.prompts[number].text for number in index)
        conversations = (own.prompts[number].data.get("prompt") for number in index)
        samples.messages.extend(tuple(found) if found else None for found in conversations)
        samples.responses.extend(episodes["response"])
        samples.scores.extend(episodes["score"])
        samples.returns.extend(episodes["return"])
    return samples[: len(prompt_index)]


def sample(agent: Any, n_episodes: int, seed: int, draw: int = 0, **changes: Any) -> Samples:
    """Episodes of an agent on prompts that depend only on the seed.

    Args:
        agent: an agent whose policy generates text. Its random generator is not changed.
        n_episodes: their number.
        seed: the seed of the prompts and of the actions.
        draw: another number gives other actions on the same prompts.
        changes: other arguments of its task, such as ``prompts`` or ``reward``.

    Raises:
        ValueError: its environment is no text environment.
    """
    own = own_environment(agent.env, agent.policy, n_episodes, reference=None, **changes)
    prompt_index = np.random.default_rng(seed).integers(len(own.prompts), size=n_episodes)
    before = agent.policy.generator.get_state()
    agent.policy.seed(seed_of(seed, draw))
    samples = sample_on(own, agent.policy, prompt_index)
    agent.policy.generator.set_state(before)
    return samples


def sample_pairs(
    first: Any,
    second: Any,
    n_pairs: int,
    seed: int,
    names: tuple[str, str] = ("first", "second"),
    **changes: Any,
) -> list[Pair]:
    """Two responses to each of ``n_pairs`` prompts, in random order; never the same text twice.

    Args:
        first, second: the agents, which may be the same one.
        n_pairs: number of pairs.
        seed: the seed of prompts, actions and order.
        names: of the two, for `Pair.sources`.
        changes: other arguments of their task, such as ``prompts`` or ``reward``; by default the
            reward of the first scores the texts of both.

    Raises:
        ValueError: the two answer with the same texts again and again.
    """
    changes = {"reward": environments.text_environments(first.env)[0].task.reward} | changes
    rng = np.random.default_rng([seed, n_pairs])
    pairs: list[Pair] = []
    for number in range(MAX_DRAWS):
        missing = n_pairs - len(pairs)
        drawn = [
            sample(agent, missing, seed + number, draw, **changes)
            for draw, agent in enumerate((first, second))
        ]
        for prompt, messages, *answers in zip(
            drawn[0].prompts,
            drawn[0].messages,
            *(zip(d.responses, d.scores, strict=True) for d in drawn),
            strict=True,
        ):
            sides = list(zip(answers, names, strict=True))
            if rng.random() < 0.5:
                sides.reverse()
            ((one, one_score), one_name), ((other, other_score), other_name) = sides
            if one != other:
                scores, sources = (one_score, other_score), (one_name, other_name)
                pairs.append(Pair(prompt, (one, other), scores, sources, messages))
        if len(pairs) >= n_pairs:
            return pairs
    raise ValueError(
        f"Only {len(pairs)} of {n_pairs} pairs have two different responses: raise the "
        "temperature, or compare agents that differ."
    )
