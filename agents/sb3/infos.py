"""Infos of Gymnasium's vector environments as stable-baselines3 has them: one mapping for a row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from agents.experience.steps import copied
from textenv.arrays import to_numpy

OF_ENDS = ("final_obs", "final_info")  # columns of SAME_STEP about the rows that ended


def info_rows(columns: Mapping[str, Any], num_rows: int) -> list[dict[str, Any]]:
    """The columns of infos as one dictionary for each row.

    ``columns[key]`` is over all rows, and valid where ``columns["_" + key]`` is True; nested
    dictionaries are columns, too.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(num_rows)]
    for key, column in columns.items():
        if key.startswith("_"):
            continue
        valid = columns.get(f"_{key}")
        at = range(num_rows) if valid is None else np.flatnonzero(to_numpy(valid))
        if isinstance(column, dict):
            values: Any = info_rows(column, num_rows)
        else:
            values = to_numpy(column) if isinstance(column, torch.Tensor) else column
        for row in at:
            value = values[row]
            rows[row][key] = value.item() if isinstance(value, np.generic) else value
    return rows


def step_infos(
    columns: Mapping[str, Any], terminated: np.ndarray, truncated: np.ndarray, final: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The infos of a step, and those of the resets in it (SAME_STEP), for each row.

    ``final`` are the last observations of the rows that ended, over all rows. The first ones also
    get ``TimeLimit.truncated`` and, where an episode ended, ``terminal_observation``.
    """
    num_rows = len(terminated)
    infos = info_rows({k: v for k, v in columns.items() if k not in OF_ENDS}, num_rows)
    resets: list[dict[str, Any]] = [{} for _ in range(num_rows)]
    if "final_info" in columns:  # what the other columns say of these rows is of the reset
        ends = info_rows(columns["final_info"], num_rows)
        for row in np.flatnonzero(terminated | truncated).tolist():
            resets[row], infos[row] = infos[row], ends[row]
    for row, info in enumerate(infos):
        info["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        if terminated[row] or truncated[row]:
            info["terminal_observation"] = row_of(final, row)
    return infos, resets


def row_of(observation: Any, row: int) -> Any:
    """One row of an observation of many, copied; of an array of objects the object itself."""
    if isinstance(observation, dict):
        return {key: row_of(value, row) for key, value in observation.items()}
    if isinstance(observation, tuple):
        return tuple(row_of(value, row) for value in observation)
    return copied(observation[row])
