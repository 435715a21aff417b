"""Products with weights on a CPU: by PyTorch's own way, or by oneDNN where that is faster.

PyTorch makes float32 products with MKL, which takes less than half of what an AMD processor with
AVX-512 can do; oneDNN, which PyTorch brings along, takes nearly all of it. Which one makes them
follows from what the processor is and never from a clock, so that a machine always makes the same
numbers; ``TEXTENV_PRODUCTS=torch`` or ``=onednn`` decides otherwise. Both are equal up to the
rounding of float32 (`tests/benchmarks/products.py` measures them).
"""

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

CHOICE = "TEXTENV_PRODUCTS"
WAYS = ("torch", "onednn")


@cache
def way() -> str:
    """Which way products are made on this machine, one of `WAYS`."""
    chosen = os.environ.get(CHOICE) or _by_processor()
    if chosen not in WAYS:
        raise ValueError(f"{CHOICE}={chosen!r} is unknown: use one of {', '.join(WAYS)}.")
    return chosen if _has_onednn() else "torch"


def _by_processor() -> str:
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "onednn" if wide and _vendor() == "AuthenticAMD" else "torch"


def _vendor() -> str:
    """Who made the processor, as Linux says it; "" elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = (line.partition(":") for line in file)
            return next((value.strip() for name, _, value in lines if "vendor_id" in name), "")
    except OSError:
        return ""


def _has_onednn() -> bool:
    """Whether PyTorch still has the operator, which is none of its public ones."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Product(torch.autograd.Function):
    """x Wᵀ + b by oneDNN: of x ``[..., K]``, W ``[M, K]`` and b ``[M]`` or None. Its gradients are
    products of the same kind, so that they have gradients, too."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, _ = inputs
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        wanted = gradient.reshape(-1, gradient.shape[-1])
        of_weight = None
        if needs_weight:
            of_weight = Product.apply(wanted.t(), x.reshape(-1, x.shape[-1]).t(), None)
        return (
            Product.apply(gradient, weight.t(), None) if needs_x else None,
            of_weight,
            wanted.sum(0) if needs_bias else None,
        )


class OneDNNLinear(nn.Linear):
    """A linear layer whose products oneDNN makes, in float32 and on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        plain = input.dtype == self.weight.dtype == torch.float32 and input.device.type == "cpu"
        usual = plain and input.dim() > 1 and input.numel() > 0
        if not usual or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        product = Product.apply if torch.is_grad_enabled() else Product.forward
        return product(input, self.weight, self.bias)


def with_fast_products(model: Any) -> Any:
    """The model, whose linear layers, except those of adapters, which are small, make their
    products in this machine's `way`."""
    if way() == "onednn":
        for name, module in model.named_modules():
            if type(module) is nn.Linear and "lora_" not in name:
                module.__class__ = OneDNNLinear
    return model
