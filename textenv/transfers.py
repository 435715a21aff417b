"""Copies between the host and an accelerator that make the host wait as seldom as possible.

The host queues work faster than a device does it. A copy to the host has to wait until all that is
queued is done, and while it waits nothing new is queued. So what the host needs comes together, in
one copy; and what it sends goes through pinned memory, which the device reads when it gets there.
"""

from __future__ import annotations

import torch
from torch import Tensor

PINNING = ("cuda",)  # kinds of devices that read the host's pinned memory


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
