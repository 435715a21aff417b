"""Attention over short rows, forward and backward: PyTorch's fused one beside plain products.

    OMP_NUM_THREADS=1 python tests/benchmarks/attention.py

It justifies `textenv.lm.attention.SHORT`. The heads are those of SmolLM2, a layer's worth.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
import tyro
from saved import publish
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEADS, SIZE = 9, 64
WAYS = {"fused": SDPBackend.FLASH_ATTENTION, "products": SDPBackend.MATH}


@dataclass
class Options:
    columns: tuple[int, ...] = (32, 64, 96, 128, 256)
    """Of each row."""
    rows: int = 32
    """Of a pass."""
    rounds: int = 7
    """Alternating repetitions, of which the median counts."""
    save: bool = False
    """Replace what is kept in results."""


def seconds(way: SDPBackend, parts: list[torch.Tensor]) -> float:
    began = time.perf_counter()
    with sdpa_kernel(way):
        found = scaled_dot_product_attention(*parts, is_causal=True)
    found.backward(found.detach())
    return time.perf_counter() - began


def main(options: Options) -> None:
    text = f"{options.rows} rows, {HEADS} heads of {SIZE}, {torch.get_num_threads()} threads\n\n"
    text += "| columns | precision | fused, ms | products, ms |\n|---|---|---|---|\n"
    for columns in options.columns:
        for dtype in (torch.bfloat16, torch.float32):
            shape = (options.rows, HEADS, columns, SIZE)
            parts = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
            taken: dict[str, list[float]] = {name: [] for name in WAYS}
            for _ in range(options.rounds + 1):
                for name, way in WAYS.items():
                    taken[name].append(seconds(way, parts))
            fused, products = (1e3 * statistics.median(each[1:]) for each in taken.values())
            precision = str(dtype).removeprefix("torch.")
            text += f"| {columns} | {precision} | {fused:.1f} | {products:.1f} |\n"
    publish("attention.md", "attention.py", text, options.save)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
