"""Runs agents on an emulated accelerator, and prints how often the host waits for it, as JSON.

    python tests/agents/emulated_device.py

The tensors of the device wrap tensors of the CPU. Each operator unwraps its arguments, which shows
what a real device would complain about (tensors of different devices) and what makes the host wait:
copies to the host, copies from memory that is not pinned, and results whose shape or value the host
needs. It is a program of its own, since PyTorch knows the device from then on in the whole process.
"""

from __future__ import annotations

import json
import weakref
from collections import Counter
from typing import Any

import gymnasium as gym
import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "emulated"
READS = {  # operators whose result has a shape or a value that the host has to know
    "_local_scalar_dense", "bincount", "equal", "masked_select", "nonzero", "unique_dim",
    "_unique2", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
waits: Counter[str] = Counter()
pinned: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # tensors, by id


class OnDevice(torch.Tensor):
    """A tensor of the device; `raw` has its numbers."""

    @staticmethod
    def __new__(cls, raw):
        return torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, raw):
        self.raw = raw

    def tolist(self):
        return self.detach().cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, *args, **(kwargs or {}))


def run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator, of which some tensors are on the device or the result is to be there."""
    name = func._schema.name.split("::")[1]
    target = kwargs.get("device")
    here = (
        torch.device(target).type == NAME
        if target is not None
        else isinstance(args[0], OnDevice)
        if name == "copy_"
        else any(isinstance(value, OnDevice) for value in tree_flatten((args, kwargs))[0])
    )
    if target is not None:
        kwargs["device"] = torch.device("cpu") if here else target
    flat, spec = tree_flatten((args, kwargs))
    note_waits(name, args, here)
    if name not in ("copy_", "_to_copy"):
        check_devices(func, flat)
    raw_args, raw_kwargs = tree_unflatten(
        [value.raw if isinstance(value, OnDevice) else value for value in flat], spec
    )
    out = func(*raw_args, **raw_kwargs)
    inputs = {id(value.raw): value for value in flat if isinstance(value, OnDevice)}

    def wrapped(result: Any) -> Any:
        if not isinstance(result, torch.Tensor) or not here:
            return result
        return inputs.get(id(result)) if id(result) in inputs else OnDevice(result)  # in place

    return tree_map(wrapped, out)


def note_waits(name: str, args: tuple, here: bool) -> None:
    """Count what makes the host wait in this operator."""
    if name in READS:
        waits[name] += 1
    if name in ("copy_", "_to_copy"):
        source = args[1] if name == "copy_" else args[0]
        if isinstance(source, OnDevice) and not here:
            waits["a copy to the host"] += 1
        if not isinstance(source, OnDevice) and here and id(source) not in pinned and source.ndim:
            waits["a copy from memory that is not pinned"] += 1
    if name in ("index", "index_put_", "_index_put_impl_", "index_put"):
        masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
        filled = name != "index" and args[2].numel() == 1  # torch fills masked places itself
        waits["an index by a mask"] += bool(masks) and not filled


def check_devices(func: Any, flat: list) -> None:
    """Tensors of the CPU beside those of the device may only be numbers, or indices."""
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    others = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim]
    if others and len(others) < len(tensors):
        raise RuntimeError(f"{func} has tensors of the device and of the CPU.")


def set_up() -> None:
    """Make the device known to PyTorch, and to what here depends on the kind of a device."""
    _setup_privateuseone_for_python_backend(NAME)
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(run, "PrivateUse1")
    libraries.extend([every, aten])

    def empty(size, dtype=None, **_):
        return OnDevice(torch.empty(size, dtype=dtype or torch.get_default_dtype()))

    def empty_strided(size, stride, dtype=None, **_):
        return OnDevice(torch.empty_strided(size, stride, dtype=dtype))

    aten.impl("empty.memory_format", empty, "PrivateUse1")
    aten.impl("empty_strided", empty_strided, "PrivateUse1")

    class Generator(torch.Generator):
        def __new__(cls, device="cpu"):  # the device has no random numbers of its own
            return super().__new__(cls)

    def pin_memory(tensor):
        copied = tensor.clone()
        if tensor.is_contiguous():  # else the copy would go through other memory
            pinned[id(copied)] = copied
        return copied

    torch.Generator, torch.Tensor.pin_memory = Generator, pin_memory  # type: ignore[misc]
    from textenv import arrays

    arrays.PINNING = ("cuda", NAME)


libraries: list[torch.library.Library] = []  # which unregister what they have when they end


def make_agent(algorithm: str, **keywords: Any) -> Any:
    import agents

    cls = getattr(agents, algorithm)
    env = {"reference": "bundled", "kl_coef": 0.1, "max_new_tokens": 4, **keywords.pop("env", {})}
    policy = {"model": "bundled", **keywords.pop("policy", {}), **cls.policy_needs}
    return cls(
        "CausalLMPolicy", "TextGen-v0", n_envs=4, seed=0, device=NAME, env_kwargs=env,
        policy_kwargs=policy, **keywords,
    )  # fmt: skip


def of_learning(algorithm: str, **keywords: Any) -> list[int]:
    """The waits of each optimiser step of a second rollout, on the device from end to end."""
    agent = make_agent(algorithm, **keywords)
    agent.learn(1)
    step, counts = agent.optimizer_step, []

    def counted(*given):
        waits.clear()
        metrics = step(*given)
        counts.append(waits.total())
        return metrics

    agent.optimizer_step = counted
    agent.update(agent.collect())
    return counts


def of_steps(policy: Any, scoring: str, array: str, stop: list[str]) -> list[int]:
    """The waits of each step of a batch of episodes, the caller's own copies left out."""
    envs = gym.make_vec(
        "TextGen-v0", num_envs=4, reference="bundled", kl_coef=0.1, max_new_tokens=5, stop=stop,
        min_new_tokens=5, scoring=scoring, array=array, autoreset_mode="DISABLED",
        **({"device": NAME} if array == "torch" else {}),
    )  # fmt: skip
    envs.unwrapped.bind(policy)
    observation, _ = envs.reset(seed=0)
    state, counts = None, []
    for _ in range(5):
        waits.clear()
        actions, _, _, state = policy.act(observation, state)
        given = actions if array == "torch" else actions.raw.numpy()
        observation, *_ = envs.step(given)
        counts.append(waits.total())
    return counts


def main() -> None:
    set_up()
    from agents.evaluation import evaluate_text
    from agents.policies import causal_lm
    from textenv.kl import shaping

    # Many small passes, which other tests see on the CPU.
    shaping.check_supported = causal_lm.check_supported = lambda *_: None
    stops = {"stop": ["."], "min_new_tokens": 2}
    learning = {
        "PPO, critic of its own": of_learning("PPO", n_epochs=1, policy={"critic_layers": 1}),
        "REINFORCE, stops": of_learning("REINFORCE", env=stops),
        "GRPO, KL in the loss": of_learning("GRPO", group_size=2, kl_loss_coef=0.1),
        "TRPO": of_learning("TRPO", n_critic_updates=1, cg_max_steps=2),
    }
    agent = make_agent("RLOO", group_size=2)
    steps = {
        f"{scoring}, {array}{', stop strings' if stop else ''}": of_steps(
            agent.policy, scoring, array, stop
        )
        for scoring, array in (("batch", "torch"), ("step", "torch"), ("step", "numpy"))
        for stop in ([], ["."])
    }
    evaluate_text(agent, n_episodes=4, seed=0)
    print(json.dumps({"learning": learning, "steps": steps}))


if __name__ == "__main__":
    main()
