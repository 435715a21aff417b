"""A fixed number of steps from each row of any Gymnasium vector environment."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.experience import env_state, environments
from agents.experience.rollout import Rollout, Step
from agents.experience.segments import Segments
from agents.policies.base import Policy
from textenv.arrays import to_numpy
from textenv.rows.infos import OF_DIALOGUES

OnStep = Callable[[Step], bool]  # called after each step of the environment; False stops learning

OF_EPISODE = ("response", "score", "finish_reason", "transcript", *OF_DIALOGUES)  # infos

STEPS = 128  # of each row in a rollout, if the caller gives no number
BETWEEN_ROLLOUTS = (  # what a `StepCollector` keeps
    "seed", "observation", "start", "resetting", "returns", "kls", "lengths", "prompts"
)  # fmt: skip


class Stopped(Exception):
    """A callback stopped the learning."""


class StepCollector:
    """Collects steps from each row, starting where the last rollout ended.

    A truncated step bootstraps from its final observation, a terminated one from 0, and a step
    in which NEXT_STEP only resets does not count. ``seed`` is that of the first reset.
    """

    def __init__(self, env: VectorEnv, seed: int | None = None):
        self.env = env
        self.mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.seed = seed
        self.observation: Any = None
        rows = env.num_envs
        # Rows at the start of an episode, and those whose next step only resets them.
        self.start, self.resetting = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)
        self.returns, self.kls = np.zeros(rows), np.zeros(rows)  # of the current episodes
        self.lengths, self.prompts = np.zeros(rows, dtype=int), np.full(rows, "", dtype=object)
        space = env.single_action_space
        self.bounds = (space.low, space.high) if isinstance(space, gym.spaces.Box) else None

    def collect(
        self, policy: Policy, n_steps: int | None, on_step: OnStep | None = None
    ) -> Rollout:
        """``n_steps`` steps of each row; None takes `STEPS`.

        If all of them were only resets (NEXT_STEP), the same number is collected again. Where
        ``on_step`` returns False, this raises `Stopped`.
        """
        rollout = self._collect(policy, n_steps or STEPS, on_step)
        while rollout.num_steps == 0:
            rollout = self._collect(policy, n_steps or STEPS, on_step)
        return rollout

    def _collect(self, policy: Policy, n_steps: int, on_step: OnStep | None) -> Rollout:
        if self.observation is None:
            self._begin()
        state = None  # the weights may have changed since the last rollout
        # So that a rollout depends on nothing but what is saved between two of them.
        environments.forget_caches(self.env)
        record = _Record(self.env.num_envs, n_steps, policy)
        for t in range(n_steps):
            observation = self.observation
            actions, log_probs, values, state = policy.act(observation, state, self.start)
            counts = ~self.resetting
            record.act(t, observation, actions, log_probs, values, counts)
            env_actions = actions.cpu().numpy()
            if self.bounds is not None:
                env_actions = np.clip(env_actions, *self.bounds)
            next_observation, rewards, terminated, truncated, infos = self.env.step(env_actions)
            rewards, terminated, truncated = map(to_numpy, (rewards, terminated, truncated))
            episode_end = (terminated | truncated) & counts
            self._add(rewards, infos, episode_end, counts)
            record.step(t, rewards, episode_end, self._of_step(infos, "ref_log_prob", episode_end))
            final, of_step = None, infos
            returns, lengths = self.returns[episode_end], self.lengths[episode_end]
            if episode_end.any():
                final = next_observation
                if self.mode == AutoresetMode.SAME_STEP:
                    final = _with_final_rows(final, infos["final_obs"], episode_end)
                if on_step is not None:
                    final = copied(final)  # the reset may write to it
                self._end_episodes(record, infos, episode_end)
                record.end(t, episode_end, final)
                cut = episode_end & truncated & ~terminated
                if cut.any():
                    record.bootstraps.append((t, cut, policy.predict_values(final)))
            if self.mode == AutoresetMode.NEXT_STEP:
                self.resetting = episode_end
                self.start = ~counts  # a row is at its start after the step that reset it
            else:
                self.start = episode_end
            if self.mode == AutoresetMode.DISABLED and episode_end.any():
                next_observation, infos = self.env.reset(options={"reset_mask": episode_end})
            self._note_prompts(infos)
            self.observation = next_observation
            if on_step is not None:
                step = Step(
                    int(counts.sum()), actions, log_probs, values, next_observation, rewards,
                    terminated & counts, truncated & counts, of_step, final, returns, lengths,
                )  # fmt: skip
                if not on_step(step):
                    raise Stopped
        return record.finish(policy, self.observation)

    def state_dict(self) -> dict[str, Any]:
        """What the next rollout depends on, beside the policy: arrays, tensors and plain data. An
        UnknownState says that the environment cannot tell (`agents.experience.env_state`)."""
        if self.observation is None and self.seed is not None:
            return {"seed": self.seed}  # the next rollout begins with it
        own = {name: copy.deepcopy(getattr(self, name)) for name in BETWEEN_ROLLOUTS}
        return {"env": env_state.capture(self.env), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the collector of a `state_dict` was."""
        if "env" not in state:
            self.seed, self.observation = state["seed"], None
            return
        env_state.restore(self.env, state["env"])
        for name in BETWEEN_ROLLOUTS:
            setattr(self, name, state[name])

    def _begin(self) -> None:
        self.observation, infos = self.env.reset(seed=self.seed)
        self.seed = None  # new episodes, after an error, are others
        self.start[:], self.resetting[:] = True, False
        self.returns[:], self.kls[:], self.lengths[:] = 0, 0, 0
        self._note_prompts(infos)

    def _note_prompts(self, infos: dict[str, Any]) -> None:
        """Remember the prompts of text episodes that begin."""
        if "prompt" in infos:
            self.prompts[infos["_prompt"]] = infos["prompt"][infos["_prompt"]]

    def _of_step(self, infos: dict[str, Any], key: str, ended: np.ndarray) -> np.ndarray | None:
        """A column of infos, including episodes that ended in this step; None if it is missing."""
        sources = [infos, infos.get("final_info", {})]
        if not any(key in source for source in sources):
            return None
        column = np.zeros(len(ended))
        for source in sources:
            if key in source:
                rows = to_numpy(source[f"_{key}"])
                column[rows] = to_numpy(source[key])[rows]
        return column

    def _add(self, rewards: np.ndarray, infos: dict, ended: np.ndarray, counts: np.ndarray) -> None:
        """Add a step to the sums of the current episodes."""
        self.returns += rewards * counts
        self.lengths += counts
        kl = self._of_step(infos, "kl", ended)
        if kl is not None:
            self.kls += kl * counts

    def _end_episodes(self, record: _Record, infos: dict[str, Any], ended: np.ndarray) -> None:
        """Record the results of the episodes that have just ended."""
        record.note("return", self.returns[ended])
        record.note("length", self.lengths[ended])
        if self._of_step(infos, "kl", ended) is not None:
            record.note("kl", self.kls[ended])
        details = infos.get("final_info", {}) if self.mode == AutoresetMode.SAME_STEP else infos
        for key in filter(is_of_episode, details):
            record.note(key, details[key][ended])
        if "response" in details:
            record.note("prompt", self.prompts[ended])
        self.returns[ended], self.lengths[ended], self.kls[ended] = 0, 0, 0


def _with_final_rows(observation: Any, final: np.ndarray, rows: np.ndarray) -> Any:
    """SAME_STEP: put the final observations into ``rows``, which already have new ones."""
    if isinstance(observation, dict):
        return {
            key: _with_final_rows(
                value, np.array([None if f is None else f[key] for f in final], object), rows
            )
            for key, value in observation.items()
        }
    merged = observation.clone() if isinstance(observation, Tensor) else observation.copy()
    for row in np.flatnonzero(rows):
        merged[row] = torch.as_tensor(final[row]) if isinstance(merged, Tensor) else final[row]
    return merged


def copied(observation: Any) -> Any:
    """An observation in numpy, in its own memory: environments may use theirs again."""
    if isinstance(observation, dict):
        return {key: copied(value) for key, value in observation.items()}
    if isinstance(observation, tuple):
        return tuple(map(copied, observation))
    return np.array(to_numpy(observation))


def is_of_episode(key: str) -> bool:
    """Whether a column of infos is kept for each episode that ends."""
    return key in OF_EPISODE or key.startswith("score/")


class _Record:
    """Arrays and tensors ``[B, T]`` that are filled as steps are taken."""

    def __init__(self, rows: int, steps: int, policy: Policy):
        self.shape = (rows, steps)
        self.acts: list[tuple] = []
        self.rewards = np.zeros(self.shape, np.float32)
        self.episode_end = np.zeros(self.shape, bool)
        self.mask = np.zeros(self.shape, bool)
        self.reference_log_probs: np.ndarray | None = None
        self.bootstraps: list[tuple[int, np.ndarray, Tensor]] = []
        self.observations: list[Tensor] = []
        self.episodes: dict[str, list] = {"return": [], "length": []}
        self.segments = Segments(rows) if policy.sequential else None

    def act(self, t: int, observation: Any, actions, log_probs, values, counts) -> None:
        self.acts.append((actions, log_probs, values))
        self.mask[:, t] = counts
        if self.segments is not None:
            self.segments.step(t, observation, counts)
        else:
            # A copy: environments may use their buffers again.
            self.observations.append(torch.tensor(to_numpy(observation)))

    def step(self, t: int, rewards, episode_end, reference_log_probs) -> None:
        self.rewards[:, t] = rewards * self.mask[:, t]
        self.episode_end[:, t] = episode_end
        if reference_log_probs is not None:
            if self.reference_log_probs is None:
                self.reference_log_probs = np.zeros(self.shape, np.float32)
            self.reference_log_probs[:, t] = reference_log_probs

    def note(self, key: str, values: np.ndarray) -> None:
        self.episodes.setdefault(key, []).extend(values.tolist())

    def end(self, t: int, ended: np.ndarray, final: Any) -> None:
        if self.segments is not None:
            self.segments.end(t + 1, np.flatnonzero(ended), final)

    def finish(self, policy: Policy, last: Any) -> Rollout:
        """The rollout, whose last column bootstraps from the value of ``last``."""
        actions, log_probs, values = (
            torch.stack(part, dim=1) for part in zip(*self.acts, strict=True)
        )
        device = values.device
        rewards, episode_end, mask = (
            torch.as_tensor(column, device=device)
            for column in (self.rewards, self.episode_end, self.mask)
        )
        next_values = torch.cat([values[:, 1:], policy.predict_values(last)[:, None]], dim=1)
        next_values = next_values * ~episode_end
        for t, rows, final_values in self.bootstraps:
            at = torch.as_tensor(rows, device=device)
            next_values[at, t] = final_values[at]
        rollout = Rollout(
            None, actions, log_probs, values, next_values, rewards, episode_end, mask,
            episodes=self.episodes,
        )  # fmt: skip
        if self.reference_log_probs is not None:
            rollout.reference_log_probs = torch.as_tensor(self.reference_log_probs, device=device)
        if self.segments is None:
            observations = torch.stack(self.observations, dim=1).to(device)
            one_step = self.shape[1] == 1 and bool(episode_end.all())
            return replace(rollout, observations=observations, whole_episodes=one_step)
        self.segments.end(self.shape[1], np.arange(self.shape[0]), last)
        return self.segments.cut(rollout, policy)
