"""The standard evaluation loop for any environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from agents import files
from agents.evaluation.results import mean_and_error, read_episodes, with_error


@dataclass(frozen=True, repr=False)
class Returns:
    """Episodes of any other environment than text.

    Attributes:
        returns: the undiscounted sum of rewards of each episode ``[N]``.
    """

    returns: np.ndarray

    def __repr__(self) -> str:
        return f"Returns of {len(self.returns)} episodes: {with_error(self.returns)}"

    def summary(self) -> dict[str, Any]:
        """The return, with mean, standard error and count."""
        return {"return": mean_and_error(self.returns)}

    def save(self, path: Path) -> None:
        """Write the episodes as JSON lines."""
        lines = (json.dumps({"return": float(value)}) + "\n" for value in self.returns)
        files.write_text(path, "".join(lines))

    @classmethod
    def load(cls, path: Path, summary: Mapping[str, Any]) -> Returns:
        """The evaluation of the episodes that `save` wrote, and of its `summary`."""
        with files.reading(path):
            returns = [row["return"] for row in read_episodes(path, summary)]
            for value in returns:
                files.check_kind("return", value, int | float)
            return cls(np.array(returns))


def evaluate_returns(
    agent: Any, env: VectorEnv, n_episodes: int = 100, seed: int = 0, deterministic: bool = True
) -> np.ndarray:
    """Returns ``[n_episodes]`` of whole episodes in any vector environment with numpy arrays.

    Short episodes end first, so the number of each row is fixed beforehand to avoid a bias. They
    are the same episodes as those of stable-baselines3's ``evaluate_policy``.
    """
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    rows = env.num_envs
    wanted = [(n_episodes + row) // rows for row in range(rows)]
    finished: list[list[float]] = [[] for _ in range(rows)]
    observation, _ = env.reset(seed=seed)
    state, start = None, np.ones(rows, dtype=bool)
    returns, resetting = np.zeros(rows), np.zeros(rows, dtype=bool)
    while any(len(found) < count for found, count in zip(finished, wanted, strict=True)):
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
    return np.concatenate([found[:count] for found, count in zip(finished, wanted, strict=True)])
