"""What a run has written, as numbers to judge it by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation.plots import SCORE, read_progress
from agents.runs.folder import RunFolder
from agents.runs.train import stored_attainable

OF_TASK = (  # arguments of environments
    "reward", "prompts", "kl_coef", "max_new_tokens", "stop", "respond", "max_turns"
)  # fmt: skip


class NotLogged(KeyError):
    """A number that a diagnosis needs is not in the log, or does not apply to this run."""


@dataclass(frozen=True)
class RunNumbers:
    """The numbers of a run."""

    progress: Mapping[str, np.ndarray]  # of ``progress.csv``: a number per rollout, nan for none
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  # of the algorithm
    task: Mapping[str, Any] = field(default_factory=dict)  # arguments of the text environment
    n_envs: int = 1
    evaluations: Mapping[str, Any] = field(default_factory=dict)  # of ``evaluation.json``
    optimal_kl: float | None = None  # of the optimal policy, nats per episode, if it is known

    @property
    def is_text(self) -> bool:
        """Whether its episodes are texts, which have a score, and its steps therefore tokens."""
        return SCORE in self.progress or "score" in self.evaluations.get("after", {})

    @classmethod
    def read(cls, path: str | Path) -> RunNumbers:
        """The record of a run's folder; FileNotFoundError if it has logged no rollout."""
        folder = RunFolder(path)
        settings = folder.settings()
        progress = read_progress(folder.progress) if folder.progress.is_file() else {}
        if not progress:
            raise FileNotFoundError(f"The run in {str(path)!r} has not logged a rollout yet.")
        reach = stored_attainable(folder)[1]  # as the log is of the prompts of the learning
        # All that is known of a model of others.
        options = settings.get("options") or settings.get("comparison", {})
        task = {name: options[name] for name in OF_TASK if name in options}
        task |= {"reference": options["model"]} if "model" in options else {}
        task |= options.get("env_kwargs") or {}
        return cls(
            progress,
            settings.get("hyperparameters", {"seed": options.get("seed")}),
            settings["task"]["kwargs"] if settings.get("task") else task,
            settings.get("n_envs", options.get("n_envs", 1)),
            folder.evaluations(),
            None if reach is None else reach.optimum.kl,
        )

    def column(self, name: str) -> np.ndarray:
        """The known values of a column; `NotLogged` if there is none."""
        values = np.asarray(self.progress.get(name, ()), dtype=float)
        values = values[np.isfinite(values)]
        if len(values) == 0:
            raise NotLogged(name)
        return values

    def late(self, name: str) -> float:
        """The mean of a column over the last quarter of the rollouts."""
        values = self.column(name)
        return float(values[-math.ceil(len(values) / 4) :].mean())

    def now(self, name: str) -> str:
        """The value of an option, to be named in a sentence."""
        value = self.hyperparameters.get(name, self.task.get(name))
        return name if value is None else f"{name} (now {value})"

    def measure(self, name: str) -> tuple[Any, Any]:
        """A measure of the evaluations before and after; `NotLogged` if one is missing."""
        try:
            return self.evaluations["before"][name], self.evaluations["after"][name]
        except KeyError:
            raise NotLogged(name) from None

    @property
    def steps_per_rollout(self) -> int:
        """Optimiser steps on each rollout, by the batch size and the number of epochs."""
        rows = self.n_envs * (self.hyperparameters.get("n_steps") or 1)
        at_once = self.hyperparameters.get("batch_size") or rows
        return math.ceil(rows / at_once) * (self.hyperparameters.get("n_epochs") or 1)
