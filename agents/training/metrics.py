"""Metrics for the log, with the names of stable-baselines3."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.utils import configure_logger

from agents import distributed
from agents.experience.rollout import Rollout
from agents.training.console import console
from textenv.arguments import as_path
from textenv.rows.infos import OF_DIALOGUES
from textenv.shown import printable

NAMES = {"return": "ep_rew_mean", "length": "ep_len_mean", "score": "score_mean", "kl": "kl"}
NAMES |= {name: name for name in OF_DIALOGUES}


def make_logger(agent: Any, name: str | None, new_run: bool) -> Logger:
    """A logger of stable-baselines3 for what the agent's ``verbose`` and ``tensorboard_log`` say;
    without the latter it writes no file, nowhere.

    Of several processes only the first one writes anything. ``name`` is that of the run for
    TensorBoard, by default the algorithm's; ``new_run`` numbers a new one, else the latest goes on.
    """
    if not distributed.is_main():
        return Logger(None, [])
    if agent.tensorboard_log is not None:
        name = name or type(agent).__name__
        logger = configure_logger(0, str(as_path(agent.tensorboard_log)), name, new_run)
        outputs = logger.output_formats
    else:
        logger = Logger(None, outputs := [])
    if agent.verbose:
        outputs.insert(0, Table())
        if logger.dir is not None:
            logger.log(f"Logging to {logger.dir}")
    return logger


class Table(HumanOutputFormat):
    """The table of stable-baselines3 on the console, for whatever names.

    That one raises an error for names that are alike once they are cut; these get a number.
    """

    def __init__(self) -> None:
        super().__init__(console.file)

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0
    ) -> None:
        shown: dict[str, str] = {}
        for key in sorted(key_values):
            section, slash, name = key.rpartition("/") if "/" not in key else key.partition("/")
            shown[key] = self._short(section + slash, name, set(shown.values()))
        super().write(
            {
                shown[key]: printable(value) if isinstance(value, str) else value
                for key, value in key_values.items()
            },
            {shown[key]: excluded for key, excluded in key_excluded.items()},
            step,
        )

    def _short(self, section: str, name: str, taken: Container[str]) -> str:
        """A name that fits into the table, beside others of its section."""
        whole, longest = printable(name).replace("\n", "⏎"), self.max_length - 3  # for the indent
        short, number = whole, 1
        while len(short) > longest or section + short in taken:
            end = "…" if number == 1 else f"… {number}"
            short, number = whole[: longest - len(end)] + end, number + 1
        return section + short


def log_entry(
    rollout: Rollout, group_size: int, **sections: Mapping[str, float]
) -> dict[str, float]:
    """Means over the episodes that ended in a rollout, and the policy's entropy; and the metrics of
    each section of the log as ``section/name``.

    The steps of all processes count (`agents.distributed`), as its episodes are already those of
    all.

    ``score_std`` is the deviation of the scores, ``groups_without_spread`` the share of groups in
    which all scores are equal, ``finished`` the share of episodes that stopped by themselves,
    ``score/NAME`` the mean of a part of a weighted sum. ``entropy`` is estimated by −log π of the
    actions, nats per step.
    """
    episodes = rollout.episodes
    means = {
        f"rollout/{name}": float(np.mean(episodes[key]))
        for key, name in NAMES.items()
        if episodes.get(key)
    }
    if episodes.get("score"):
        means["rollout/score_std"] = float(np.std(episodes["score"]))
        if group_size > 1:
            share = groups_without_spread(episodes["score"], group_size)
            means["rollout/groups_without_spread"] = share
    if episodes.get("finish_reason"):
        stopped = [reason != "length" for reason in episodes["finish_reason"]]
        means["rollout/finished"] = float(np.mean(stopped))
    parts = [key for key in episodes if key.startswith("score/") and episodes[key]]
    means |= {f"rollout/{key}": float(np.mean(episodes[key])) for key in parts}
    means["rollout/entropy"] = -rollout.mean(rollout.log_probs)
    if rollout.log_prob_mismatch is not None:
        means["rollout/log_prob_mismatch"] = rollout.mean(rollout.log_prob_mismatch)
    for section, metrics in sections.items():
        means |= {f"{section}/{name}": value for name, value in metrics.items()}
    return means


def groups_without_spread(scores: Sequence[float], group_size: int) -> float:
    """The share of groups whose scores are all equal, from which comparison learns nothing.

    The scores are in the order of the groups. A ``group_size`` of 1, or one that does not divide
    their number, makes all of them one group.
    """
    whole = group_size == 1 or len(scores) % group_size > 0
    groups = np.reshape(scores, (1, -1) if whole else (-1, group_size))
    return float(np.mean(np.ptp(groups, axis=1) == 0))


def speed(agent: Any, timesteps: int, seconds: float) -> dict[str, float]:
    """Counts, and steps per second: of all learning (``fps``), and of collecting a rollout, which
    the agent began at ``timesteps`` and took so many ``seconds``."""
    return {
        "fps": agent.num_timesteps / agent.learning_seconds,
        "rollout_fps": (agent.num_timesteps - timesteps) / seconds,
        "iterations": agent.num_rollouts,
        "time_elapsed": agent.learning_seconds,
        "total_timesteps": agent.num_timesteps,
    }


def mean_metrics(metrics: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over optimiser steps; of the KL to π_old also the first value.

    Before the first step π is π_old, so a ``first_approx_kl`` other than 0 is an error or rounding.
    """
    means = {name: sum(entry[name] for entry in metrics) / len(metrics) for name in metrics[0]}
    if "approx_kl" in means:
        means["first_approx_kl"] = metrics[0]["approx_kl"]
    return means
