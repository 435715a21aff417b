"""Standard evaluation loops for agents, for text and for any other environment."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from agents import environments, storage
from agents.collect import collect_episodes
from agents.rollout import Rollout
from textenv.legality import of_rows
from textenv.vector_env import TextGenVectorEnv

# Of an evaluation; another number of rows gives other random texts.
MAX_ROWS = 256
TOKENS_AT_ONCE = 2**14  # rows times the longest episode
LOGITS_AT_ONCE = 2**25  # of a plain forward pass; 128 MB in float32
DISTINCT_EPISODES = 256  # distinct-n decreases with the number of texts, so all use the same


@dataclass(frozen=True)
class TextEvaluation:
    """Episodes of text and their scores, one entry per episode.

    Attributes:
        scores: the scores of the reward, without shaping.
        paid: the scores minus the penalty of an episode that never stopped.
        kls: KL(π‖π_ref) of the whole episode, nats: Σ_t log π(a_t|s_t) − log π_ref(a_t|s_t), whose
            mean is unbiased. Empty without a reference.
        recomputed_kls: the same from one plain forward pass of both models, without cache, chunks
            or anything else that the loop uses.
        lengths: numbers of tokens.
        prompts, responses: texts.
        tokens_per_second: the speed of generation and scoring.
        kl_coef: β, units of the score per nat, by which the episodes are judged.
    """

    scores: np.ndarray
    paid: np.ndarray
    kls: np.ndarray
    recomputed_kls: np.ndarray
    lengths: np.ndarray
    prompts: list[str]
    responses: list[str]
    tokens_per_second: float
    kl_coef: float = 0.0

    @property
    def returns(self) -> np.ndarray:
        """score − penalty − β·KL of each episode, the mean of which agents maximise."""
        return self.paid - self.kl_coef * self.kls if self.kl_coef else self.paid

    @property
    def distinct_2(self) -> float:
        """`distinct_n` of the first 256 responses."""
        return distinct_n(self.responses[:DISTINCT_EPISODES], 2)

    def summary(self) -> dict[str, dict[str, float | None] | float]:
        """Return, score, KL (nats) and length (tokens), each with mean, standard error and count.

        And distinct-2, β and the speed, by which `load` makes the table again.
        """
        columns = {
            "return": self.returns, "score": self.scores, "kl": self.kls,
            "recomputed_kl": self.recomputed_kls, "length": self.lengths,
        }  # fmt: skip
        return {name: mean_and_error(values) for name, values in columns.items() if len(values)} | {
            "distinct_2": self.distinct_2,
            "kl_coef": self.kl_coef,
            "tokens_per_second": self.tokens_per_second,
        }

    def save(self, path: Path) -> None:
        """Write the episodes as JSON lines, which pandas and datasets read."""
        columns = {name: getattr(self, name) for name in EPISODE_COLUMNS.values()}
        rows = [
            {
                name: columns[field][index]
                for name, field in EPISODE_COLUMNS.items()
                if len(columns[field])
            }
            for index in range(len(self.scores))
        ]
        lines = (json.dumps(row, default=lambda number: number.item()) for row in rows)
        storage.write_text(path, "".join(line + "\n" for line in lines))

    @classmethod
    def load(cls, path: Path, summary: Mapping[str, Any]) -> TextEvaluation:
        """The evaluation of the episodes that `save` wrote, and of its `summary`."""
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns: dict[str, Any] = {}
        for name, field in EPISODE_COLUMNS.items():
            values = [row[name] for row in rows if name in row]
            columns[field] = values if name in ("prompt", "response") else np.array(values)
        return cls(
            **columns,
            tokens_per_second=summary["tokens_per_second"],
            kl_coef=summary["kl_coef"],
        )


# Columns of a file of episodes, and the attributes that they are from.
EPISODE_COLUMNS = {
    "prompt": "prompts", "response": "responses", "score": "scores", "paid": "paid", "kl": "kls",
    "recomputed_kl": "recomputed_kls", "length": "lengths",
}  # fmt: skip


def mean_and_error(values: np.ndarray) -> dict[str, float | None]:
    """Mean, standard error (None of a single value) and count."""
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error, "count": len(values)}


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different word n-grams / all word n-grams of a corpus (Li et al. 2016): low if texts repeat.

    It decreases with the size of the corpus, so compare only corpora of the same size.
    """
    grams = [
        tuple(words[i : i + n])
        for words in (text.lower().split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / max(len(grams), 1)


def evaluate_text(
    agent: Any,
    env: Any = None,
    n_episodes: int = 256,
    seed: int = 0,
    kl_coef: float | None = None,
    prompts: Any = None,
) -> TextEvaluation:
    """Sample episodes from a text agent; the same prompts and random numbers for the same seed.

    They are sampled in a separate environment of the same task: the given environment, its prompts
    and its β are not changed.

    Args:
        agent: an agent whose policy generates text. Its random generator is not changed.
        env: any text environment, single, vector or wrapped; None uses the agent's own.
        n_episodes: number of episodes.
        seed: the seed of prompts and actions.
        kl_coef: β of the returns; None uses that of the environment's rewards.
        prompts: other prompts, such as held-out ones; None uses those of the environment.

    Raises:
        ValueError: there is no text environment, or ``n_episodes`` is below 1.
    """
    if n_episodes < 1:
        raise ValueError(f"n_episodes={n_episodes} must be at least 1.")
    policy, env = agent.policy, agent.env if env is None else env
    own = own_environment(
        env, policy, n_episodes, **({} if prompts is None else {"prompts": prompts})
    )
    own.bind(policy)
    if kl_coef is None:
        kl_coef = environments.kl_coef(env)
    generator_state = policy.generator.get_state()
    policy.seed(seed)
    rollouts: list[Rollout] = []
    texts: list[str] = []
    seconds = 0.0
    while len(texts) < n_episodes:
        began = time.perf_counter()
        rollouts.append(collect_episodes(own, policy, seed=None if rollouts else seed))
        seconds += time.perf_counter() - began
        texts += [own.prompts[index].text for index in own.prompt_index]
    policy.generator.set_state(generator_state)

    def column(key: str) -> list:
        every = [value for rollout in rollouts for value in rollout.episodes.get(key, [])]
        return every[:n_episodes]

    kls = []
    if own.shaping is not None and hasattr(policy, "model"):
        kls = [recomputed_kl(policy, own.shaping.reference, rollout) for rollout in rollouts]
    return TextEvaluation(
        np.array(column("score")),
        np.array(column("return")),
        np.array(column("kl")),
        np.concatenate(kls)[:n_episodes] if kls else np.zeros(0),
        np.array(column("length")),
        texts[:n_episodes],
        column("response"),
        sum(sum(rollout.episodes["length"]) for rollout in rollouts) / seconds,
        kl_coef if own.shaping is not None else 0.0,
    )


def own_environment(env: Any, policy: Any, n_episodes: int, **changes: Any) -> TextGenVectorEnv:
    """A native environment of the same task, whose rewards are not shaped.

    Args:
        env: any text environment, single, vector or wrapped.
        policy: what will act in it, on the same device.
        n_episodes: how many episodes are wanted, at least as many as there are rows.
        changes: other arguments of the task.

    Raises:
        ValueError: there is no text environment, or it is on another device.
    """
    found = environments.text_environments(env)
    if not found:
        raise ValueError(
            f"{env} is no text environment: evaluate_returns measures agents in any other."
        )
    shaping = found[0].shaping
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


@torch.no_grad()
def recomputed_kl(policy: Any, reference: Any, rollout: Rollout) -> np.ndarray:
    """Σ_t log π(a_t|s_t) − log π_ref(a_t|s_t) of each row ``[B]``, by plain forward passes.

    Nothing of the decoder or of the teacher-forced scoring takes part: whole rows go through the
    models as transformers has them, and the log-probabilities are those of all logits.
    """
    input_ids, prompt_lengths = (
        rollout.observations[key] for key in ("input_ids", "prompt_lengths")
    )
    steps = torch.arange(rollout.mask.shape[1], device=input_ids.device)
    columns = (prompt_lengths[:, None] + steps - 1).clamp(max=input_ids.shape[1] - 1)
    every_step = torch.ones_like(rollout.mask)
    early = of_rows(rollout.observations, every_step)

    def log_probs(model: Any, rows: torch.Tensor) -> torch.Tensor:
        every = model(input_ids=input_ids[rows], use_cache=False).logits
        at = columns[rows][:, :, None].expand(-1, -1, every.shape[-1])
        illegal = None if early is None else early.view(*rollout.mask.shape, -1)[rows]
        logits = policy.sampling.apply(every.gather(1, at), illegal)
        return logits.log_softmax(-1).gather(2, rollout.actions[rows][:, :, None])[:, :, 0]

    at_once = max(1, LOGITS_AT_ONCE // (policy.sampling.vocabulary * input_ids.shape[1]))
    kls = []
    for rows in torch.arange(len(input_ids), device=input_ids.device).split(at_once):
        with policy.autocast():
            own = log_probs(policy.model, rows)
        kls.append(((own - log_probs(reference, rows)) * rollout.mask[rows]).sum(dim=1))
    return torch.cat(kls).cpu().numpy()


def evaluate_returns(
    agent: Any, env: VectorEnv, n_episodes: int = 100, seed: int = 0, deterministic: bool = True
) -> np.ndarray:
    """Returns ``[n_episodes]`` of whole episodes in any vector environment with numpy arrays.

    Short episodes end first, so each row contributes the same number to avoid a bias.
    """
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    rows = env.num_envs
    wanted = -(-n_episodes // rows)
    finished: list[list[float]] = [[] for _ in range(rows)]
    observation, _ = env.reset(seed=seed)
    state, start = None, np.ones(rows, dtype=bool)
    returns, resetting = np.zeros(rows), np.zeros(rows, dtype=bool)
    while min(map(len, finished)) < wanted:
        actions, state = agent.predict(observation, state, start, deterministic)
        observation, rewards, terminated, truncated, _ = env.step(actions)
        returns += rewards * ~resetting
        ended = (terminated | truncated) & ~resetting
        for row in np.flatnonzero(ended):
            finished[row].append(returns[row])
        returns[ended] = 0
        start = ended
        if mode == AutoresetMode.NEXT_STEP:  # a row is at its start after the step that reset it
            start, resetting = resetting, ended
        elif mode == AutoresetMode.DISABLED and ended.any():
            observation, _ = env.reset(options={"reset_mask": ended})
    return np.array([row[:wanted] for row in finished]).ravel()[:n_episodes]
