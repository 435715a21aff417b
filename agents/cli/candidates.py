"""Agents that the command line names: folders of runs, and models that never learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents import algorithms, checkpoint
from agents.agent import Agent
from agents.construction import find_device

ROWS = 8  # of the environment that an agent brings along; samples are drawn in one of their own


def open_candidate(source: str, task: dict[str, Any], device: str) -> Agent:
    """An agent that only samples: a saved one, or an untouched model.

    Args:
        source: the folder of a run or of an agent, or a model as for ``train``.
        task: arguments of its environment, such as prompts and reward.
        device: "auto" uses an accelerator if there is one.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the agent's algorithm is a custom class.
    """
    folder = checkpoint.find(source)
    if not (folder / checkpoint.DESCRIPTION).is_file():
        return algorithms.REINFORCE(  # never learns
            "CausalLMPolicy", "TextGen-v0", n_envs=ROWS, device=str(find_device(device)),
            policy_kwargs={"model": source}, env_kwargs=task,
        )  # fmt: skip
    return load_saved(folder, task, device, n_envs=ROWS)


def load_saved(folder: Path, task: dict[str, Any], device: str, **changes: Any) -> Agent:
    """The saved agent of a text task, of whichever algorithm.

    Raises:
        FileNotFoundError: there is no agent in the folder.
        ValueError: its algorithm is a custom class, or it generates no text.
    """
    saved = checkpoint.describe(folder)
    name = saved["algorithm"]
    if name not in algorithms.__all__:
        raise ValueError(
            f"The algorithm of the agent in {str(folder)!r} is a custom class, {name}: "
            "evaluate it from Python, with agents.evaluation.evaluate_text."
        )
    if saved["policy"] != "CausalLMPolicy":
        raise ValueError(
            f"The agent in {str(folder)!r} generates no text (its policy is {saved['policy']}): "
            "evaluate it from Python, with agents.evaluation.evaluate_returns."
        )
    return getattr(algorithms, name).load(folder, env_kwargs=task, device=device, **changes)
