"""What learning needs to go on exactly where it was: optimiser, generators, and environment.

Of several processes it is what the first one needs: the others go on with new episodes.

learning.json, learning.safetensors   beside the agent; data only, as all that an agent saves
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from agents import distributed, files
from agents.saving import env_state
from agents.saving.env_state import State

log = logging.getLogger(__name__)

LEARNING, TENSORS = "learning.json", "learning.safetensors"
TENSOR_TYPES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"
)  # fmt: skip


def write(agent: Any, folder: Path) -> None:
    """Write what `restore` reads; an environment that cannot be read is left out, and logged."""
    tensors = {
        f"optimizer.{index}.{name}": value
        for index, entry in agent.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    tensors["generator.policy"] = agent.policy.generator.get_state()
    tensors["generator.minibatches"] = agent.generator.get_state()
    state, settings = None, {}
    try:
        captured = env_state.capture(agent.collector)
        state = to_json(captured, tensors)
        at_start = getattr(agent.collector, "at_start", None)
        if at_start is not None:
            now = captured["object"]["env"]
            settings = env_state.settings(agent.env, now, dict(at_start))
    except env_state.NotData as error:
        log.warning(
            "The state of the environment is not saved, so learning will go on with new episodes: "
            "%s Environments with state_dict and load_state_dict are asked for it.", error
        )  # fmt: skip
    save_file(tensors, folder / TENSORS)
    learning = {"collector": state, "settings": settings, "device": agent.device.type}
    files.write_json(folder / LEARNING, learning)


def new_seed(agent: Any) -> int:
    """A seed that differs from that of the first run and of other processes, and is always the
    same."""
    seeds = np.random.SeedSequence([agent.seed or 0, agent.num_timesteps])
    return int(seeds.generate_state(1)[0] % 2**31) + distributed.rank() * agent.env.num_envs


def restore(agent: Any, folder: Path, same_task: bool) -> bool:
    """Restore what `write` wrote; returns whether it had the environment's state."""
    if not (folder / TENSORS).is_file():
        return False
    tensors = load_file(folder / TENSORS)
    file = folder / LEARNING
    learning = json.loads(file.read_text()) if file.is_file() else {}  # of an earlier release
    _restore_generators(agent, tensors, learning.get("device", agent.device.type))
    if not distributed.is_main():  # it would draw the same actions and prompts as the first process
        agent.policy.seed(new_seed(agent))
        agent.generator.manual_seed(new_seed(agent))
        return False
    if learning.get("collector") is None:
        return False
    seed = agent.collector.seed
    try:
        agent.env.reset(seed=0)  # so that attributes exist that only a reset sets
        here = env_state.capture(agent.env)
        env_state.check_settings(agent.env, here, learning["settings"])
        env_state.restore(agent.collector, from_json(learning["collector"], tensors))
    except (env_state.NotData, ValueError, KeyError, TypeError, RuntimeError) as error:
        log.log(
            logging.WARNING if same_task else logging.INFO,
            "The environment begins new episodes, since the saved state is of another one: %s",
            error,
        )
        agent.collector = type(agent.collector)(agent.env, seed)
        return False
    return True


def _restore_generators(agent: Any, tensors: dict[str, torch.Tensor], device: str) -> None:
    """Restore optimiser and generators; the actions' generator only on the same kind of device."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    learning = [p for group in agent.optimizer.param_groups for p in group["params"]]
    for number, entry in state.items():
        for name, value in entry.items():
            if value.ndim and value.shape != learning[number].shape:
                raise ValueError(f"optimizer.{number}.{name} has the shape {list(value.shape)}")
    groups = agent.optimizer.state_dict()["param_groups"]
    agent.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if device == agent.policy.generator.device.type:
        agent.policy.generator.set_state(tensors["generator.policy"].cpu())
    else:
        log.warning("The agent was saved on %s: its actions will be other ones here.", device)
        agent.policy.seed(new_seed(agent))
    agent.generator.set_state(tensors["generator.minibatches"].cpu())


def to_json(state: State, tensors: dict[str, torch.Tensor]) -> Any:
    """A state as JSON, in which arrays and tensors are names; they are added to ``tensors``."""
    if isinstance(state, dict):
        return {key: to_json(part, tensors) for key, part in state.items()}
    if isinstance(state, list | tuple):
        return [to_json(part, tensors) for part in state]
    if isinstance(state, np.ndarray) and state.dtype not in TENSOR_TYPES:
        texts = np.char.decode(state, "latin-1") if state.dtype.kind == "S" else state
        return {"values": texts.tolist(), "dtype": str(state.dtype)}
    if isinstance(state, np.ndarray | torch.Tensor):
        name = f"state.{len(tensors)}"
        tensors[name] = torch.as_tensor(np.array(state) if isinstance(state, np.ndarray) else state)
        return {"tensor": name, "numpy": isinstance(state, np.ndarray)}
    return state


def from_json(data: Any, tensors: Mapping[str, torch.Tensor]) -> State:
    """The state that `to_json` wrote."""
    if isinstance(data, list):
        return [from_json(part, tensors) for part in data]
    if not isinstance(data, dict):
        return data
    if set(data) == {"tensor", "numpy"}:
        tensor = tensors[data["tensor"]]
        return tensor.cpu().numpy() if data["numpy"] else tensor
    if set(data) == {"values", "dtype"}:
        values, dtype = np.array(data["values"]), np.dtype(data["dtype"])
        return (np.char.encode(values, "latin-1") if dtype.kind == "S" else values).astype(dtype)
    return {key: from_json(part, tensors) for key, part in data.items()}
