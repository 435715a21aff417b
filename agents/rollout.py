"""Experience: driving a policy through an environment, and what comes of it.

`collect_episodes` drives a text environment that scores in batches: one row is one episode.
`StepCollector` drives any Gymnasium vector environment, in all three autoreset modes.
Both return a `Rollout`, which hands out its rows in `Batch`es.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

Tree = Tensor | dict[str, Tensor]


def take(tree: Tree, rows: Any) -> Tree:
    """The chosen rows of a tensor, or of each tensor in a dictionary."""
    return {k: v[rows] for k, v in tree.items()} if isinstance(tree, dict) else tree[rows]


@dataclass
class Rollout:
    """Steps as they were taken, in rows ``[B, T]``.

    Attributes:
        observations: what the policy's ``evaluate`` reads: ``[B, T, ...]``, or for a sequential
            policy one entry a row, the last observation of its only episode.
        actions: ``[B, T, ...]``.
        log_probs: log π_old(a_t|s_t), nats.
        values: V(s_t) of the critic that acted.
        next_values: V(s_{t+1}): 0 where terminated, V(final observation) where truncated.
        rewards: KL shaping included.
        ended: the episode is terminated or truncated after step t.
        mask: True means "counts". Padding and the steps that NEXT_STEP spends on resetting do not.
        sequential: whether a row is one whole sequence, which must not be torn apart.
        whole_episodes: whether each row is one episode from its beginning to its end, in the order
            of the environment's rows: what comparing within groups takes for granted.
        reference_log_probs: log π_ref(a_t|s_t) where the environment has a reference.
        rounding: |log π of acting − of evaluating|, where a reduced precision sets them apart.
        episodes: of those that ended, one entry each: ``return``, ``length``, and for text
            ``score``, ``kl`` (nats per episode), ``response``.
    """

    observations: Tree
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    next_values: Tensor
    rewards: Tensor
    ended: Tensor
    mask: Tensor
    sequential: bool = False
    whole_episodes: bool = False
    reference_log_probs: Tensor | None = None
    rounding: Tensor | None = None
    episodes: dict[str, list] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """How many steps count."""
        return int(self.mask.sum())

    @property
    def completed(self) -> Tensor:
        """``[B, T]`` bool: steps of episodes whose end is in the rollout."""
        return self.ended.flip(1).cumsum(1).flip(1) > 0

    def batch(self, **columns: Tensor) -> Batch:
        """The whole rollout as one batch, with further columns ``[B, T]`` such as advantages.

        Steps that stand for themselves become rows of one step; sequences stay whole.
        """
        batch = Batch(
            self.observations,
            self.actions,
            self.mask,
            log_probs=self.log_probs,
            values=self.values,
            reference_log_probs=self.reference_log_probs,
            **columns,
        )
        return batch if self.sequential else batch.flat()

    def batches(
        self, batch_size: int | None, generator: torch.Generator, **columns: Tensor
    ) -> Iterator[Batch]:
        """The rows in random order, ``batch_size`` at a time (None: all at once)."""
        whole = self.batch(**columns)
        if batch_size is None or batch_size >= len(whole):
            yield whole
            return
        order = torch.randperm(len(whole), generator=generator)
        for rows in order.split(batch_size):
            yield whole.take(rows.to(whole.mask.device))


@dataclass
class Batch:
    """Rows for one optimiser step. Columns as in `Rollout`; ``log_probs`` and ``values`` are old.

    Attributes:
        num_steps, num_rows: counts of the **whole** optimiser step, also in its micro-batches, so
            that their losses add up to the loss of the whole and not to a mean of means.
    """

    observations: Tree
    actions: Tensor
    mask: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor | None = None
    returns: Tensor | None = None
    reference_log_probs: Tensor | None = None
    num_steps: int = 0
    num_rows: int = 0

    def __post_init__(self):
        if not self.num_rows:
            self.num_steps = int(self.mask.sum())
            self.num_rows = int(self.mask.any(dim=1).sum())

    def __len__(self) -> int:
        return len(self.mask)

    def take(self, rows: Tensor, **counts: int) -> Batch:
        """A batch of the chosen rows."""
        chosen = {
            column.name: take(getattr(self, column.name), rows)
            for column in fields(self)
            if isinstance(getattr(self, column.name), Tensor | dict)
        }
        return replace(self, **chosen, **{"num_steps": 0, "num_rows": 0, **counts})

    def flat(self) -> Batch:
        """Each counted step as a row of its own, ``[N, 1]``."""
        at = self.mask.nonzero(as_tuple=True)
        return self.take(tuple(index[:, None] for index in at))

    def micro_batches(self, size: int | None) -> Iterator[Batch]:
        """The batch in parts of at most ``size`` rows, which know the counts of the whole."""
        if size is None or size >= len(self):
            yield self
            return
        for rows in torch.arange(len(self), device=self.mask.device).split(size):
            yield self.take(rows, num_steps=self.num_steps, num_rows=self.num_rows)


# --- collecting -----------------------------------------------------------------------------

OnStep = Callable[[], bool]  # called after each step of the environment; False stops learning


class Stopped(Exception):
    """A callback asked for an end."""


def collect_episodes(
    env: VectorEnv, policy: Any, on_step: OnStep | None = None, seed: int | None = None
) -> Rollout:
    """One whole episode for each row of a text environment with ``scoring="batch"``.

    Nothing here waits for the device before the last row has ended: rows that have ended wait, and
    their steps are masked afterwards.
    """
    first, _ = env.reset(seed=seed)
    first = {key: value.clone() for key, value in first.items()}
    observation, state, start = first, None, torch.ones(env.num_envs, dtype=torch.bool)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    infos: dict[str, Any] = {}
    while "token_rewards" not in infos:
        actions, log_probs, values, state = policy.act(observation, state, start)
        observation, _, _, _, infos = env.step(actions)
        columns.append((actions, log_probs, values))
        start = torch.zeros(env.num_envs, dtype=torch.bool)
        if on_step is not None and not on_step():
            raise Stopped
    rewards = infos["token_rewards"].float()
    steps = rewards.shape[1]
    lengths = torch.as_tensor(infos["response_length"], device=rewards.device)[:, None]
    column = torch.arange(steps, device=rewards.device)
    mask, ended = column < lengths, column == lengths - 1
    actions, log_probs, values = (
        torch.stack(part, dim=1)[:, :steps] for part in zip(*columns, strict=True)
    )
    values = values * mask
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1) * ~ended
    kl = infos.get("token_kl")
    episodes = {
        "return": rewards.sum(dim=1).tolist(),
        "length": infos["response_length"].tolist(),
        "score": infos["score"].tolist(),
        "response": list(infos["response"]),
    }
    if kl is not None:
        episodes["kl"] = kl.sum(dim=1).tolist()
    reference_log_probs = infos.get("ref_log_probs")
    # The environment goes on writing into its table, of which the observation may be a view.
    last = {key: value.clone() for key, value in observation.items()}
    return Rollout(
        policy.rollout_observations(first, last),
        actions,
        log_probs * mask,
        values,
        next_values,
        rewards,
        ended,
        mask,
        sequential=True,
        whole_episodes=True,
        reference_log_probs=None if reference_log_probs is None else reference_log_probs.float(),
        episodes=episodes,
    )


class StepCollector:
    """Collects a fixed number of steps from each row of any vector environment, going on where it
    left off.

    A truncated step bootstraps from its final observation, a terminated one from 0, and the step
    that NEXT_STEP spends on resetting does not count.

    Args:
        env: a Gymnasium vector environment, numpy arrays in and out.
        seed: of the first reset.
    """

    def __init__(self, env: VectorEnv, seed: int | None = None):
        self.env = env
        self.mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.seed = seed
        self.observation: Any = None
        space = env.single_action_space
        self.bounds = (space.low, space.high) if isinstance(space, gym.spaces.Box) else None

    def collect(self, policy: Any, n_steps: int, on_step: OnStep | None = None) -> Rollout:
        """``n_steps`` steps of each row."""
        rows = self.env.num_envs
        if self.observation is None:
            self.observation, _ = self.env.reset(seed=self.seed)
            self.start = np.ones(rows, dtype=bool)
            self.resetting = np.zeros(rows, dtype=bool)  # rows whose next step only resets them
            self.returns, self.lengths = np.zeros(rows), np.zeros(rows, dtype=int)
        state = None  # the weights may have changed since the last rollout
        record = _Record(rows, n_steps, policy, self.env)
        for t in range(n_steps):
            actions, log_probs, values, state = policy.act(self.observation, state, self.start)
            counts = ~self.resetting
            sent = actions.cpu().numpy()
            if self.bounds is not None:
                sent = np.clip(sent, *self.bounds)
            following, rewards, terminated, truncated, infos = self.env.step(sent)
            ended = (terminated | truncated) & counts
            self.returns += rewards * counts
            self.lengths += counts
            record.add(t, self.observation, actions, log_probs, values, rewards, ended, counts)
            if ended.any():
                cut_short = ended & truncated & ~terminated
                self._end(t, record, policy, following, ended, cut_short, infos)
            if self.mode == AutoresetMode.NEXT_STEP:
                self.resetting = ended
                self.start = ~counts  # a row is at its start after the step that reset it
            else:
                self.start = ended
            if self.mode == AutoresetMode.DISABLED and ended.any():
                following, _ = self.env.reset(options={"reset_mask": ended})
            self.observation = following
            if on_step is not None and not on_step():
                raise Stopped
        return record.finish(policy, self.observation)

    def _end(self, t, record, policy, following, ended, truncated, infos) -> None:
        """Note the episodes that ended at step t, and bootstrap those that were cut short."""
        for row in np.flatnonzero(ended):
            record.episodes["return"].append(float(self.returns[row]))
            record.episodes["length"].append(int(self.lengths[row]))
        same_step = self.mode == AutoresetMode.SAME_STEP
        details = infos.get("final_info", {}) if same_step else infos
        for key in ("score", "response"):
            if key in details:
                record.episodes.setdefault(key, []).extend(details[key][ended].tolist())
        self.returns[ended], self.lengths[ended] = 0, 0
        final = following
        if same_step:
            final = _with_final_rows(following, infos["final_obs"], ended)
        record.end(t, ended, final)
        if truncated.any():
            record.bootstrap(t, truncated, policy.predict_values(final))


def _with_final_rows(observation: Any, final: np.ndarray, rows: np.ndarray) -> Any:
    """SAME_STEP: the observations that ended episodes, where rows already hold new ones."""
    if isinstance(observation, dict):
        return {
            key: _with_final_rows(
                value, np.array([None if f is None else f[key] for f in final], object), rows
            )
            for key, value in observation.items()
        }
    merged = observation.copy()
    for row in np.flatnonzero(rows):
        merged[row] = final[row]
    return merged


class _Record:
    """Tensors ``[B, T]`` that fill up as steps are taken."""

    def __init__(self, rows: int, steps: int, policy: Any, env: VectorEnv):
        self.policy, self.env = policy, env
        self.shape = (rows, steps)
        self.steps: list[tuple] = []
        self.rewards = np.zeros(self.shape, np.float32)
        self.ended = np.zeros(self.shape, bool)
        self.mask = np.zeros(self.shape, bool)
        self.bootstraps: list[tuple[int, np.ndarray, Tensor]] = []
        self.observations: list[Any] = []
        self.episodes: dict[str, list] = {"return": [], "length": []}
        # A sequential policy's rows are cut into segments, one for each episode (or part of one).
        self.segments: list[tuple[int, int, int, Any, Any]] = []  # row, start, stop, first, last
        self.begin: list[tuple[int, Any] | None] = [None] * rows

    def add(self, t, observation, actions, log_probs, values, rewards, ended, counts) -> None:
        self.steps.append((actions, log_probs, values))
        self.rewards[:, t], self.ended[:, t], self.mask[:, t] = rewards * counts, ended, counts
        if not self.policy.sequential:
            self.observations.append(torch.tensor(observation))  # a copy: buffers may be reused
            return
        for row in np.flatnonzero(counts):
            if self.begin[row] is None:
                self.begin[row] = (t, _row(observation, row))

    def end(self, t: int, ended: np.ndarray, final: Any) -> None:
        if self.policy.sequential:
            for row in np.flatnonzero(ended):
                self._cut(row, t + 1, final)

    def _cut(self, row: int, stop: int, last: Any) -> None:
        start, first = self.begin[row]
        self.segments.append((row, start, stop, first, _row(last, row)))
        self.begin[row] = None

    def bootstrap(self, t: int, rows: np.ndarray, values: Tensor) -> None:
        self.bootstraps.append((t, rows, values))

    def finish(self, policy: Any, last: Any) -> Rollout:
        """The rollout, whose last column bootstraps from the value of ``last``."""
        actions, log_probs, values = (
            torch.stack(part, dim=1) for part in zip(*self.steps, strict=True)
        )
        device = values.device
        rewards, ended, mask = (
            torch.as_tensor(column, device=device)
            for column in (self.rewards, self.ended, self.mask)
        )
        next_values = torch.cat([values[:, 1:], policy.predict_values(last)[:, None]], dim=1)
        next_values = next_values * ~ended
        for t, rows, final_values in self.bootstraps:
            at = torch.as_tensor(rows, device=device)
            next_values[at, t] = final_values[at]
        rollout = Rollout(
            None, actions, log_probs, values, next_values, rewards, ended, mask,
            episodes=self.episodes,
        )  # fmt: skip
        if not policy.sequential:
            observations = torch.stack(self.observations, dim=1).to(device)
            one_step = self.shape[1] == 1 and bool(ended.all())
            return replace(rollout, observations=observations, whole_episodes=one_step)
        for row in range(self.shape[0]):
            if self.begin[row] is not None:
                self._cut(row, self.shape[1], last)
        return self._segmented(rollout)

    def _segmented(self, rollout: Rollout) -> Rollout:
        """Rows of one episode each (or the part of it that fell into the rollout)."""
        longest = max(stop - start for _, start, stop, _, _ in self.segments)
        device = rollout.mask.device
        rows = torch.tensor([[segment[0]] for segment in self.segments], device=device)
        starts = torch.tensor([[segment[1]] for segment in self.segments], device=device)
        stops = torch.tensor([[segment[2]] for segment in self.segments], device=device)
        steps = starts + torch.arange(longest, device=device)
        inside = steps < stops
        at = (rows, steps.clamp(max=self.shape[1] - 1))
        columns = {
            column.name: getattr(rollout, column.name)[at]
            for column in fields(rollout)
            if isinstance(getattr(rollout, column.name), Tensor)
        }
        columns["mask"] = columns["mask"] & inside
        columns["ended"] = columns["ended"] & inside
        first, last = (_stacked([segment[i] for segment in self.segments]) for i in (3, 4))
        observations = {
            key: value.to(device)
            for key, value in self.policy.rollout_observations(first, last).items()
        }
        return replace(rollout, **columns, observations=observations, sequential=True)


def _row(observation: Any, row: int) -> Any:
    return {key: np.array(value[row]) for key, value in observation.items()}


def _stacked(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
