"""Products of the sizes of SmolLM2: PyTorch's own way beside oneDNN's, in GFLOP/s.

    OMP_NUM_THREADS=2 python tests/benchmarks/products.py

It justifies the rule of `textenv.lm.products`: on AMD processors with AVX-512 oneDNN is twice as
fast in float32, on Intel's they are alike. The largest number is what this machine can do; the
others are shares of it. Then SmolLM2 reads and learns from 32 rows of 32 tokens in both ways.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from saved import publish
from torch.nn.functional import linear

from textenv.lm import load_model, products
from textenv.lm.loading import hide_progress_bars

SIZES = {"gate, up": (1536, 576), "down": (576, 1536), "q, o": (576, 576), "head": (49152, 576)}


@dataclass
class Options:
    rows: tuple[int, ...] = (32, 1024)
    """Of the inputs."""
    rounds: int = 5
    """Alternating repetitions, of which the median counts."""
    save: bool = False
    """Replace what is kept in results."""


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median time of a call, each measured over a fifth of a second."""
    found = []
    for _ in range(rounds + 1):
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < 0.2:
            work()
            calls += 1
        found.append((time.perf_counter() - began) / calls)
    return statistics.median(found[1:])


def main(options: Options) -> None:
    hide_progress_bars()
    ways = {"torch": linear, "oneDNN": products.Product.apply}
    speeds: dict[tuple[str, int, str], float] = {}
    for name, (outputs, inputs) in SIZES.items():
        for rows in options.rows if name != "head" else options.rows[:1]:
            x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
            for way, product in ways.items():
                took = seconds(lambda p=product, x=x, w=weight: p(x, w, None), options.rounds)
                speeds[name, rows, way] = 2 * rows * outputs * inputs / took / 1e9
    peak = max(speeds.values())
    lines = ["| weight | rows | torch | oneDNN |", "|---|---|---|---|"]
    for name, rows in dict.fromkeys((name, rows) for name, rows, _ in speeds):
        cells = [speeds[name, rows, way] for way in ways]
        shown = " | ".join(f"{cell:.0f} ({cell / peak:.0%})" for cell in cells)
        lines.append(f"| {name} {SIZES[name]} | {rows} | {shown} |")
    lines += ["", "| SmolLM2, float32, ms | torch | oneDNN |", "|---|---|---|"]
    models = {way: load_model("smollm2") for way in ways}
    classes = {"torch": torch.nn.Linear, "oneDNN": products.OneDNNLinear}
    for way, model in models.items():  # whatever this machine's own way is
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.__class__ = classes[way]
    ids = torch.randint(100, 1000, (32, 32))

    def learn(model: torch.nn.Module) -> None:
        model(ids).logits[:, -1].logsumexp(-1).sum().backward()

    @torch.no_grad()
    def read(model: torch.nn.Module) -> None:
        model.base_model(ids)

    for name, work in (("reads", read), ("reads, and goes back", learn)):
        took = [seconds(lambda w=work, m=models[way]: w(m), options.rounds) for way in ways]
        lines.append(f"| {name} | {' | '.join(f'{1000 * each:.0f}' for each in took)} |")
    text = (
        f"{products._vendor()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; here products are made by "
        f"{products.way()}\n\n" + "\n".join(lines) + "\n"
    )
    publish("products.md", "products.py", text, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
