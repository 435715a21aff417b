"""Which of PyTorch's ways of attention passes of whole rows take."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# Columns of a row, up to which plain products are faster, forward and backward together.
SHORT = 96


def attention_of(
    device: torch.device, dtype: torch.dtype, max_length: int
) -> AbstractContextManager:
    """A block of passes over rows of at most ``max_length`` tokens, of a model that learns or of
    its reference.

    On a CPU the backward pass of PyTorch's fused attention is slow in bfloat16: over 32 rows of 32
    tokens a layer of SmolLM2 takes 34 ms forward and backward on one thread, and with plain
    products 20 (`tests/benchmarks/results/attention.md`). For long rows these would take the
    memory of all scores. PyTorch's switch is one of the whole process: threads that use it at once
    change each other's speed, not their numbers beyond rounding.
    """
    if device.type == "cpu" and dtype == torch.bfloat16 and max_length <= SHORT:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
