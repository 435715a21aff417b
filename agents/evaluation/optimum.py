"""Scores of the untouched reference, and what follows from them: how good a policy can be."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import files
from agents.evaluation.sampling import evaluation_env, sample_on
from agents.experience import environments
from agents.policies.acting import ReferencePolicy
from textenv import TASKS
from textenv.lm.log_probs import states_of_steps
from textenv.lm.parts import split
from textenv.optimum import BestOf, Optimum, best_of_n_curve, checked, optimum
from textenv.rewards.names import import_object
from textenv.sharing import plain

MIN_PER_PROMPT = 32  # of many prompts, only some are sampled, but these often enough
BEST_OF = (4, 16)  # shown in tables
PLANNED = 2  # prompts by which a game is planned


@dataclass(frozen=True, repr=False)
class Attainable:
    """What can be reached in a task: the optimum and best-of-n, from samples of the reference."""

    scores: Sequence[np.ndarray]  # of the reference, ``[N]`` for each prompt (`reference_scores`)
    kl_coef: float  # β > 0 of the return, units of the score per nat
    # The optimum of a game that was planned; samples give that of who knows what the game hides.
    planned: Optimum | None = None
    is_dialogue: bool = False

    def __repr__(self) -> str:
        levels = ", ".join(f"{name} {self.value(at):+z.3f}" for name, at in self.points().items())
        return f"Attainable at β = {self.kl_coef:g}, returns: {levels}"

    @cached_property
    def optimum(self) -> Optimum:
        """The optimal policy at this β."""
        return self.planned or optimum(self.scores, self.kl_coef)

    @property
    def is_flat(self) -> bool:
        """Whether the responses to each prompt all have the same score."""
        return all(len(scores) > 1 and np.ptp(scores) == 0 for scores in self.scores)

    @property
    def note(self) -> str | None:
        """What is to be said of the optimum, in a sentence."""
        if self.is_flat:
            return (
                f"All {self.optimum.samples} samples of each prompt have the same score, so that "
                "nothing can be learned from them: ask for what the model writes now and then."
            )
        if self.is_dialogue and self.planned is None:
            return (
                "Where replies depend on chance, or on what the policy does not read, the optimum "
                "is an upper bound."
            )
        return self.optimum.warning

    def at(self, kl_coef: float) -> Attainable:
        """The same at another β, for which nothing has been planned."""
        if kl_coef == self.kl_coef:
            return self
        return replace(self, kl_coef=kl_coef, planned=None)

    def value(self, point: Optimum | BestOf) -> float:
        """The return of the optimum or of best-of-n: score − β·KL."""
        return point.score - self.kl_coef * point.kl

    def points(self) -> dict[str, Optimum | BestOf]:
        """Best of 4 and of 16, and the optimum, by their names in tables."""
        # Who picks among several games with one secret knows it; that is no policy.
        known = [n for n in BEST_OF if n <= self.optimum.samples and self.planned is None]
        best = {f"best of {point.n}": point for point in best_of_n_curve(self.scores, known)}
        return {**best, "optimum": self.optimum}

    def save(self, path: Path) -> None:
        """Write the scores as JSON."""
        data = {"kl_coef": self.kl_coef, "scores": [scores.tolist() for scores in self.scores]}
        if self.is_dialogue:
            planned = None if self.planned is None else vars(self.planned)
            data |= {"planned": planned, "is_dialogue": True}
        files.write_text(path, json.dumps(data) + "\n")

    @classmethod
    def load(cls, path: Path) -> Attainable:
        """Read what `save` wrote."""
        data = files.read_json(path, {"scores": list, "kl_coef": int | float})
        with files.reading(path):
            found = [checked(scores) for scores in data["scores"]]
            if not found or len({len(scores) for scores in found}) > 1 or not data["kl_coef"] > 0:
                raise ValueError("it needs kl_coef above 0, and as many scores of each prompt")
            planned = data.get("planned")
            return cls(
                found, data["kl_coef"], planned and Optimum(**planned),
                data.get("is_dialogue", False),
            )  # fmt: skip


# What is attainable on the prompts of the evaluations, and on those of the learning.
Known = tuple[Attainable | None, Attainable | None]


def reference_scores(
    agent: Any, env: Any = None, n_episodes: int = 4096, seed: int = 0, prompts: Any = None
) -> list[np.ndarray]:
    """The scores of episodes that the reference model generates, for each prompt.

    Temperature and bans are those of the agent's policy, as in the KL. A penalty for episodes that
    never stop is subtracted from the scores. There is one array for each sampled prompt, all of the
    same length.

    Args:
        agent: an agent; its environment is used where ``env`` is None.
        env: any text environment with a reference.
        n_episodes: approximate number of episodes, distributed evenly over the prompts. If they are
            fewer than 32 per prompt, randomly chosen prompts get 32 each.
        seed: the seed of the choice and of the actions.
        prompts: other prompts, such as held-out ones; None uses those of the environment.
    """
    if n_episodes < 1:
        raise ValueError(f"n_episodes={n_episodes} must be at least 1.")
    env = agent.env if env is None else env
    reference = environments.reference(env)
    if reference is None:
        raise ValueError(
            "The environment has no reference, so there is nothing to sample: make it with "
            "reference=, the model to stay close to."
        )
    policy = ReferencePolicy(reference, agent.policy.sampling, seed)
    changes = {"reference": None} if prompts is None else {"reference": None, "prompts": prompts}
    own = evaluation_env(env, policy, n_episodes, **changes)
    count = len(own.prompts)
    chosen = np.arange(count)
    if n_episodes < count * MIN_PER_PROMPT:
        some = max(1, n_episodes // MIN_PER_PROMPT)
        chosen = np.sort(np.random.default_rng(seed).choice(count, some, replace=False))
    per_prompt = max(1, n_episodes // len(chosen))
    returns = sample_on(own, policy, np.tile(chosen, per_prompt)).returns
    return list(np.array(returns).reshape(per_prompt, len(chosen)).T)


def shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, Fraction]:
    """Which part of the rows each of their contents is."""
    counts = Counter(repr(sorted(row.items())) for row in rows)
    return {content: Fraction(count, len(rows)) for content, count in counts.items()}


def planned_optimum(agent: Any, kl_coef: float, prompts: Any = None) -> Optimum | None:
    """The optimum of a registered game that has a plan, for the reference of an agent's
    environment, by its first few prompts; None for any other task.

    ``prompts`` as of `reference_scores`.
    """
    env = environments.text_environments(agent.env)[0]
    spec = TASKS.get(getattr(agent.env.spec, "id", ""))
    if spec is None or spec.planned is None:
        return None
    own = {name: plain(value) for name, value in env.task.arguments.items()}
    if any(own[name] != value for name, value in spec.kwargs.items() if name != "prompts"):
        return None
    changes = {"reference": None} if prompts is None else {"reference": None, "prompts": prompts}
    every = env.sibling(1, **changes).prompts
    # The plan is one for what the game hides by itself, each as often as another.
    hidden = [{**row, "prompt": None} for row in spec.kwargs["prompts"]]
    if shares([{**prompt.data, "prompt": None} for prompt in every]) != shares(hidden):
        return None
    starts = {prompt.text: prompt for prompt in every}
    some = [prompt.ids.tolist() for prompt in list(starts.values())[:PLANNED]]
    body, head = split(environments.reference(agent.env))
    device = next(body.parameters()).device

    @torch.no_grad()
    def log_probs(contexts: Sequence[Sequence[int]]) -> np.ndarray:
        lengths = torch.tensor([len(context) for context in contexts])
        ids = torch.zeros(len(contexts), int(lengths.max()), dtype=torch.int64)
        for row, context in zip(ids, contexts, strict=True):
            row[: len(context)] = torch.tensor(context)
        hidden = states_of_steps(body, ids, lengths, device)
        logits = agent.policy.sampling.apply(head(hidden))
        return logits.log_softmax(-1).double().cpu().numpy()

    plan = import_object(spec.planned, "planned")
    token = env.tokenizer.convert_tokens_to_ids
    value, score, start = plan(some, token, log_probs, kl_coef)
    return Optimum(
        kl_coef, value, score, kl=(score - value) / kl_coef, start=start, samples=MIN_PER_PROMPT,
        effective_samples=math.inf, standard_error=0.0, bias=0.0,
    )  # fmt: skip
