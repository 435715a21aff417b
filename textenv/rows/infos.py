"""Infos in the format of Gymnasium's vector environments: a column over all rows for each key.

A column ``infos[key]`` is an array over the rows; the mask ``infos["_" + key]`` says in which rows
it is valid.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from textenv.arrays import Array, to_numpy
from textenv.episode import Episode
from textenv.rewards import part_names
from textenv.task import TextTask

OF_DIALOGUES = "turns", "reply_length", "turns_cut", "replies_cut"
SAME_STEP_KEYS = ("final_obs", "_final_obs", "final_info", "_final_info")


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


def last_step(mask: np.ndarray, episodes: Sequence[Episode], scores: np.ndarray) -> dict:
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
    """For SAME_STEP: put the data of the rows that ended in this step into ``final_obs`` and
    ``final_info``. The observation is that before any row is reset."""
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


def as_numbers(
    infos: dict[str, Any], task: TextTask, with_kl: bool, prompt_index: np.ndarray
) -> dict[str, Any]:
    """The numbers in the infos of a reset or a step, with the same keys at each of them: numpy
    columns that are valid in all rows.

    These are ``prompt_index``; ``response_length``, ``score``, ``stopped`` (0 if the finish reason
    is "length"), ``score_NAME`` and ``no_stop_penalty``, 0 before an episode's last step, and so
    are the numbers of a dialogue; ``turn_reward``, 0 but at the end of a turn; and
    ``ref_log_prob`` and, where a policy is bound (``with_kl``), ``kl``, 0 at a reset. What
    SAME_STEP adds stays as it is. The parts of a sum are not ``score/NAME`` here, since a slash in
    HDF5 would make ``score`` a folder.
    """
    if "finish_reason" in infos:
        stopped = infos["finish_reason"] != "length"
        infos = infos | {"stopped": stopped, "_stopped": infos["_finish_reason"]}
    dtypes: dict[str, Any] = {"response_length": np.int64, "stopped": np.int64, "score": np.float64}
    for name in part_names(task.reward):
        dtypes[f"score_{name}"] = np.float64
        if f"score/{name}" in infos:
            values, valid = infos[f"score/{name}"], infos[f"_score/{name}"]
            infos = infos | {f"score_{name}": values, f"_score_{name}": valid}
    if task.no_stop_penalty != 0:
        dtypes["no_stop_penalty"] = np.float64
    if task.respond is not None:
        dtypes |= {"turn_reward": np.float64, "score_turns": np.float64}
        dtypes |= dict.fromkeys(OF_DIALOGUES, np.int64)
        if "score/turns" in infos:
            infos = infos | {"score_turns": infos["score/turns"]}
            infos |= {"_score_turns": infos["_score/turns"]}
    if task.reference is not None:
        dtypes |= dict.fromkeys(
            ("ref_log_prob", "kl") if with_kl else ("ref_log_prob",), np.float64
        )
    numbers = {key: infos[key] for key in SAME_STEP_KEYS if key in infos}
    numbers |= everywhere("prompt_index", prompt_index)
    for key, dtype in dtypes.items():
        values = np.zeros(len(prompt_index), dtype)
        if key in infos:
            mask = infos[f"_{key}"]
            values[mask] = to_numpy(infos[key])[mask]
        numbers |= everywhere(key, values)
    return numbers


def first_row(infos: dict[str, Any], plain: bool = True) -> dict[str, Any]:
    """The infos of row 0, ``plain`` as Python's values, else with numpy's scalars."""
    return {
        key: value[0].item() if plain and isinstance(value[0], np.generic) else value[0]
        for key, value in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][0]
    }
