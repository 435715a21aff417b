"""Arrays in numpy and in torch, on the host and on an accelerator.

Indexing, arithmetic and comparison are written in the same way in both libraries, so the rules of
an episode are written once; only creating arrays and converting between the two kinds differ, and
both are here.

The host queues work faster than a device does it. A copy to the host has to wait until all that is
queued is done, and while it waits nothing new is queued. So what the host needs comes together, in
one copy; and what it sends goes through pinned memory, which the device reads when it gets there.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = Any  # np.ndarray or torch.Tensor: there is no common type of the two

_TORCH_DTYPES = {
    np.int64: torch.int64,
    np.int8: torch.int8,
    np.bool_: torch.bool,
    np.float64: torch.float32,  # rewards in torch mode: the precision of learning
}
PINNING = ("cuda",)  # kinds of devices that read the host's pinned memory


class Arrays:
    """Makes arrays of one kind, "numpy" or "torch"; tensors on a device."""

    def __init__(self, kind: str, device: str | torch.device):
        if kind not in ("numpy", "torch"):
            raise ValueError(f"array={kind!r} must be 'numpy' or 'torch'.")
        self.numpy = kind == "numpy"
        self.device = torch.device("cpu" if self.numpy else device)

    def zeros(self, shape: int | tuple[int, ...], dtype: type) -> Array:
        """Zeros of a numpy dtype, or of its counterpart in torch."""
        if self.numpy:
            return np.zeros(shape, dtype)
        return torch.zeros(shape, dtype=_TORCH_DTYPES[dtype], device=self.device)

    def convert(self, values: Any) -> Array:
        """A numpy array or a tensor as an array of this kind, on the device."""
        if self.numpy:
            return to_numpy(values)
        values = to_tensor(values)
        dtype = torch.float32 if values.is_floating_point() else values.dtype
        return to_device(values.to(dtype), self.device)

    def copy(self, array: Array) -> Array:
        """The same numbers in new memory."""
        return array.copy() if self.numpy else array.clone()


def to_numpy(values: Any) -> np.ndarray:
    """Convert to a numpy array; a tensor on the CPU gives a view."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def to_tensor(values: Any) -> Tensor:
    """Convert to a tensor; a numpy array gives a view, a tensor stays on its device."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Tensors on the CPU, in one copy; if all of them are there, as they are.

    Integers beside other numbers have to be below 2^53.
    """
    if all(tensor.is_cpu for tensor in tensors):
        return list(tensors)
    device = next(tensor.device for tensor in tensors if not tensor.is_cpu)
    kind = torch.float64 if any(map(torch.is_floating_point, tensors)) else torch.int64
    numbers = [to_device(tensor, device).reshape(-1).to(kind) for tensor in tensors]
    parts = torch.cat(numbers).cpu().split([len(part) for part in numbers])
    return [
        part.view(tensor.shape).to(tensor.dtype)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. A copy from the CPU does not wait for the device."""
    if device.type in PINNING and tensor.is_cpu:
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Origin(NamedTuple):
    """Which episodes an observation belongs to, known on the host without waiting."""

    episodes: np.ndarray  # [B] int64, the number of each row's episode, unique in this process
    steps: int  # how many times tokens have been appended to the table
    lengths: np.ndarray | None = None  # [B] int64, where replies make rows grow by several tokens


class TokenObservation(dict):
    """An observation in torch mode: a dictionary that also carries its `Origin`.

    So a decoder whose tokens are on an accelerator knows which rows are new without comparing
    tokens, which would make the host wait.
    """

    origin: Origin
    # [B] bool, rows whose next action counts; None if all do, and on an accelerator, where to look
    # at it would make the host wait.
    running: Tensor | None = None
