"""Where the time of learning goes on a CPU: seconds of a rollout, of its scoring by the reference
and of an update, and their share of what the machine can do.

    OMP_NUM_THREADS=2 python tests/benchmarks/parts.py --save

That is the speed of the best of some square products in the same precision and the same process;
the operations of each part are counted by PyTorch. The last column is the time that a part takes
where freed memory is given back to the system, as glibc does by itself, over its time where the
process keeps it (`textenv.lm.allocator`). That rule is one of a whole process, so that processes of
both kinds are measured in turn.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from saved import publish
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

from agents import GRPO, PPO
from textenv.kl.shaping import KLShaping
from textenv.lm import products
from textenv.lm.allocator import RULES

# Changes nothing in glibc, but a process with such a variable is left as it is.
GIVEN_BACK = {"MALLOC_PERTURB_": "0"}
# An algorithm, the rows of its rollouts, and the arguments of its policy.
AGENTS: dict[str, tuple[type, int, dict]] = {
    "PPO, the bundled model, float32": (PPO, 256, {"model": "bundled"}),  # the default run
    "PPO, adapters of rank 16, bfloat16": (PPO, 32, {"dtype": "bfloat16", "lora": 16}),
    "GRPO, all weights, bfloat16": (GRPO, 32, {"dtype": "bfloat16"}),
    "GRPO, all weights, float32": (GRPO, 32, {}),
}
PARTS = ("rollout", "scoring", "update")
TOKENS = 24


@dataclass
class Options:
    """One measurement."""

    rounds: int = 3
    """Processes of each kind, in turn."""
    rollouts: int = 4
    """Of a process; the first is not counted."""
    only: str | None = None
    """Measure this agent in this process, and print what was found."""
    save: bool = False
    """Replace what is kept in results."""


class Operations(TorchDispatchMode):
    """Counts floating-point operations of products; `FlopCounterMode` does not bear modules that
    are called without gradient."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if (count := flop_registry.get(function._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


if products._has_onednn():

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def operations_of_onednn(x: tuple, weight: tuple, *_, **__) -> int:
        """Of a product of shapes ``[..., K]`` and ``[M, K]``."""
        return 2 * math.prod(x) * weight[0]


def peak(dtype: torch.dtype) -> float:
    """Floating-point operations per second of the fastest of some square products, made as those
    of a model are."""
    by_onednn = dtype == torch.float32 and products.way() == "onednn"
    found = []
    for size in (1024, 2048, 4096):
        one, other = (torch.randn(size, size).to(dtype) for _ in range(2))
        for _ in range(4):
            began = time.perf_counter()
            products.Product.forward(one, other, None) if by_onednn else one @ other
            found.append(2 * size**3 / (time.perf_counter() - began))
    return max(found)


def of_parts(agent, quantity: Callable[[], float]) -> dict[str, float]:
    """How much a quantity that only grows does so in each part of one iteration."""
    plain, scoring = KLShaping.score, []

    def score(*arguments, **named):
        before = quantity()
        result = plain(*arguments, **named)
        scoring.append(quantity() - before)
        return result

    KLShaping.score = score
    try:
        before = quantity()
        rollout = agent.collect()
        collected = quantity()
        agent.update(rollout)
    finally:
        KLShaping.score = plain
    parts = collected - before - sum(scoring), sum(scoring), quantity() - collected
    return dict(zip(PARTS, parts, strict=True))


def measure(name: str, rollouts: int) -> dict[str, dict[str, float] | float]:
    """Median seconds and operations of each part in this process, the operations per second that
    are possible, and the gigabytes that it took at most."""
    algorithm, rows, of_the_policy = AGENTS[name]
    of_the_policy = {"model": "smollm2", "dtype": "float32", **of_the_policy}
    precision = of_the_policy["dtype"]
    agent = algorithm(
        "CausalLMPolicy", "TextGen-v0", n_envs=rows, seed=0, device="cpu",
        env_kwargs={
            "reference": of_the_policy["model"], "reference_dtype": precision, "kl_coef": 0.05,
            "reward": "length(20)", "max_new_tokens": TOKENS, "min_new_tokens": TOKENS,
        },
        policy_kwargs=of_the_policy,
    )  # fmt: skip
    runs = [of_parts(agent, time.perf_counter) for _ in range(rollouts)][1:]
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with Operations() as counter:
        operations = of_parts(agent, lambda: counter.total)
    return {
        "seconds": {part: statistics.median(run[part] for run in runs) for part in PARTS},
        "operations": operations, "peak": peak(getattr(torch, precision)), "GB": taken,
    }  # fmt: skip


def in_process(name: str, rollouts: int, variables: dict[str, str]) -> dict:
    """What `measure` finds in a new process."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(RULES)}
    done = subprocess.run(
        [sys.executable, __file__, "--only", name, "--rollouts", str(rollouts)],
        env=plain | variables, stdout=subprocess.PIPE, check=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main(options: Options) -> None:
    """Measure each agent both ways, and print a table."""
    if options.only is not None:
        print(json.dumps(measure(options.only, options.rollouts)))
        return
    text = (
        f"{TOKENS} tokens in each of 256 rows for the bundled model, and of 32 for SmolLM2-135M, "
        f"{torch.get_num_threads()} threads, medians of {options.rounds} processes of each kind\n\n"
        "| | part | TFLOP | seconds | of the peak | seconds, memory given back | ratio |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    notes = []
    for name in AGENTS:
        kept, back = [], []
        for _ in range(options.rounds):
            kept.append(in_process(name, options.rollouts, {}))
            back.append(in_process(name, options.rollouts, GIVEN_BACK))
        best = max(run["peak"] for run in kept + back)
        for part in PARTS:
            seconds = [statistics.median(r["seconds"][part] for r in runs) for runs in (kept, back)]
            operations = kept[0]["operations"][part]
            text += (
                f"| {name} | {part} | {operations / 1e12:.2f} | {seconds[0]:.2f} | "
                f"{operations / seconds[0] / best:.0%} | {seconds[1]:.2f} | "
                f"{seconds[1] / seconds[0]:.2f} |\n"
            )
        memory = [statistics.median(run["GB"] for run in runs) for runs in (kept, back)]
        notes.append(
            f"{name}: peak {best / 1e12:.2f} TFLOP/s; at most {memory[0]:.2f} GB, "
            f"{memory[1]:.2f} where it is given back."
        )
    publish("parts.md", "parts.py", text + "\n" + "\n".join(notes) + "\n", options.save)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
