"""Infos in the format of Gymnasium's vector environments: a column over all rows for each key.

A column ``infos[key]`` is an array over the rows; the mask ``infos["_" + key]`` says in which rows
it is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textenv.episode import Episode
from textenv.token_table import Array


def column(
    key: str, mask: np.ndarray, values: Sequence | np.ndarray, dtype: Any = object
) -> dict[str, np.ndarray]:
    """A column with ``values`` at the rows of ``mask``, in their order."""
    entries = np.full(len(mask), None if dtype is object else 0, dtype=dtype)
    entries[mask] = values
    return {key: entries, f"_{key}": mask.copy()}


def everywhere(key: str, values: Array) -> dict[str, Any]:
    """A column that is valid in every row."""
    return {key: values, f"_{key}": np.ones(len(values), np.bool_)}


def of_episodes(mask: np.ndarray, episodes: Sequence[Episode], scores: np.ndarray) -> dict:
    """The infos of an episode's last step: text, length, score and finish reason."""
    return {
        **column("response", mask, [episode.response for episode in episodes]),
        **column("response_length", mask, [len(e.response_ids) for e in episodes], np.int64),
        **column("score", mask, scores, np.float64),
        **column("finish_reason", mask, [episode.finish_reason for episode in episodes]),
    }


def with_finals(
    ended: np.ndarray, infos: dict[str, Any], observation: dict[str, Array]
) -> dict[str, Any]:
    """For SAME_STEP: put the data of the episodes that ended into ``final_obs`` and ``final_info``.

    Args:
        ended: bool ``[B]``, the rows that ended in this step.
        infos: the infos of this step.
        observation: the observation of this step, before any row is reset.
    """
    ended = ended.copy()
    rows = np.flatnonzero(ended)
    picked = {key: value[rows] for key, value in observation.items()}  # indexing copies
    final_obs = np.full(len(ended), None, dtype=object)
    for i, row in enumerate(rows):
        final_obs[row] = {key: value[i] for key, value in picked.items()}
    final_info: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key in [key for key in infos if not key.startswith("_")]:
        has = infos[f"_{key}"]
        for part, rows_of_part in ((final_info, has & ended), (others, has & ~ended)):
            if rows_of_part.any():
                part.update({key: infos[key], f"_{key}": rows_of_part})
    return others | {
        "final_obs": final_obs,
        "_final_obs": ended,
        "final_info": final_info,
        "_final_info": ended.copy(),
    }


def first_row(infos: dict[str, Any]) -> dict[str, Any]:
    """The infos of row 0 as plain Python values."""
    return {
        key: value[0].item() if isinstance(value[0], np.generic) else value[0]
        for key, value in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][0]
    }
