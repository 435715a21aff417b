"""What learning needs to go on exactly where it was: optimiser, generators, and environment.

Of several processes it is what the first one needs: the others go on with new episodes.

learning.json, learning.safetensors   beside the agent; data only, as all that an agent saves
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from agents import distributed, files
from agents.experience.env_state import UnknownState
from textenv.shown import message

State = Any  # a tree of plain data, arrays and tensors

log = logging.getLogger(__name__)

LEARNING, TENSORS = "learning.json", "learning.safetensors"
TENSOR_TYPES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"
)  # fmt: skip


def write(agent: Any, folder: Path) -> None:
    """Write what `restore` reads, with the reason where the environment cannot say where it is."""
    tensors = agent.whole_optimizer
    tensors = of_optimizer(agent.optimizer) if tensors is None else dict(tensors)
    tensors["generator.policy"] = agent.policy.generator.get_state()
    tensors["generator.minibatches"] = agent.generator.get_state()
    learning: dict[str, Any] = {"device": agent.device.type, "collector": None}
    of_collector: dict[str, torch.Tensor] = {}
    try:
        learning["collector"] = to_json(agent.collector.state_dict(), of_collector)
        tensors |= of_collector
    except UnknownState as error:
        learning["unknown"] = str(error)
    save_file(tensors, folder / TENSORS)
    files.write_json(folder / LEARNING, learning)


def of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of an optimiser by the number of each parameter; where these are sharded, that of
    the whole ones, in the first process alone, and all have to call it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = (
        (f"optimizer.{index}.{name}", value, parameters[index])
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    )
    if all(distributed.sharded_of(p) is None for p in parameters):
        return {name: value for name, value, _ in state}
    return distributed.on_main(state)


def new_seed(agent: Any) -> int:
    """A seed that differs from that of the first run and of other processes, and is always the
    same."""
    seeds = np.random.SeedSequence([agent.seed or 0, agent.num_timesteps])
    return int(seeds.generate_state(1)[0] % 2**31) + distributed.rank() * agent.env.num_envs


def restore(agent: Any, folder: Path, same_task: bool) -> None:
    """Restore what `write` wrote to a new agent that has its weights and counts. Without the
    environment's state it begins new episodes. ``same_task``: the environment was made as the saved
    one was."""
    agent.collector.seed = new_seed(agent)  # not the episodes of the first run again
    if not (folder / TENSORS).is_file():
        return
    tensors = load_file(folder / TENSORS)
    file = folder / LEARNING
    learning = json.loads(file.read_text()) if file.is_file() else {}  # of an earlier release
    _restore_generators(agent, tensors, learning.get("device", agent.device.type))
    if not distributed.is_main():  # it would draw the same actions and prompts as the first process
        agent.policy.seed(new_seed(agent))
        agent.generator.manual_seed(new_seed(agent))
        return
    state = learning.get("collector")
    if state is not None and "object" in state:
        state = _of_earlier_release(state["object"], type(agent.env).__name__)
    state = from_json(state, tensors)
    try:
        if state is None:
            raise UnknownState(learning.get("unknown", "Its state was not saved."))
        agent.env.reset(seed=0)  # so that attributes exist that only a reset sets
        agent.collector.load_state_dict(state)
    except Exception as error:  # whatever an environment raises for the state of another one
        level = logging.WARNING if same_task else logging.INFO
        log.log(level, "The environment begins new episodes: %s", message(error))
        agent.collector = type(agent.collector)(agent.env, new_seed(agent))


def _of_earlier_release(attributes: State, cls: str) -> State:
    """A collector's state as `to_json` writes it, from a tree of its attributes and their kinds.

    Where the environment could not say its state, the tree has its attributes: they are not used.
    """

    def data(node: State) -> State:
        if not isinstance(node, dict):
            return node
        kind, content = next(iter(node.items()))
        if kind in ("list", "tuple"):
            return [data(part) for part in content]
        if kind == "dict":
            return {key: data(part) for key, part in content}
        if kind == "objects":
            return {"values": [data(part) for part in content], "dtype": "object"}
        return content  # an array, a tensor or a number

    if "own" not in attributes["env"]:
        return None
    own = {"env": [[cls, data(attributes["env"]["own"])]]}
    return {name: data(node) for name, node in attributes.items()} | own


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
            entry[name] = value = distributed.part_of(value, like=learning[number])
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
    """A state as JSON, in which arrays and tensors are names; they are added to ``tensors``. Tuples
    become lists."""
    if isinstance(state, dict) and all(isinstance(key, str) for key in state):
        return {key: to_json(part, tensors) for key, part in state.items()}
    if isinstance(state, list | tuple):
        return [to_json(part, tensors) for part in state]
    if isinstance(state, np.ndarray | np.generic) and state.dtype not in TENSOR_TYPES:
        return {"values": to_json(state.tolist(), tensors), "dtype": str(state.dtype)}
    if isinstance(state, np.ndarray | np.generic | torch.Tensor):
        name = f"state.{len(tensors)}"
        tensors[name] = torch.as_tensor(state if torch.is_tensor(state) else np.array(state))
        return {"tensor": name, "numpy": not torch.is_tensor(state)}
    if state is None or type(state) in (bool, int, float, str):
        return state
    raise UnknownState(f"Its state holds {type(state).__name__}, which cannot be saved as data.")


def from_json(data: Any, tensors: Mapping[str, torch.Tensor]) -> State:
    """The state that `to_json` wrote."""
    if isinstance(data, list):
        return [from_json(part, tensors) for part in data]
    if not isinstance(data, dict):
        return data
    if set(data) == {"tensor", "numpy"}:
        tensor = tensors[data["tensor"]]
        return tensor.cpu().numpy()[()] if data["numpy"] else tensor
    if set(data) == {"values", "dtype"}:
        return np.array(data["values"], data["dtype"])
    return {key: from_json(part, tensors) for key, part in data.items()}
