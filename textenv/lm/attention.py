"""Which of PyTorch's ways of attention passes of whole rows take."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# Columns of a row, up to which attention as plain products is at least as fast forward and backward
# (`tests/benchmarks/attention.py`).
SHORT = 96


def attention_of(
    device: torch.device, dtype: torch.dtype, max_length: int
) -> AbstractContextManager:
    """A block of passes over rows of at most ``max_length`` tokens, of a model that learns or of
    its reference.

    On a CPU the backward pass of PyTorch's fused attention is slow in bfloat16: over 32 rows of 32
    tokens it takes 45 to 60 ms a layer of SmolLM2 on one thread, and plain products 8. For long
    rows these would take the memory of all scores. PyTorch's switch is one of the whole process:
    threads that use it at once change each other's speed, not their numbers beyond rounding.
    """
    if device.type == "cpu" and dtype == torch.bfloat16 and max_length <= SHORT:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
