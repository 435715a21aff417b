"""What the processes tell each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from agents.ranks.processes import count, meet

# A process that ends is noticed at once. This ends the waiting for one that hangs, and has to be
# longer than the first process evaluates while the others wait for it.
LONGEST_WAIT = timedelta(hours=6)


class ProcessLost(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


def everyone(thing: Any) -> list[Any]:
    """What each process gives, by rank; of small things, which are pickled.

    Raises:
        ProcessLost: another process has ended.
    """
    if count() == 1:
        return [thing]
    things: list[Any] = [None] * count()
    group = _messages()
    with _noticing_loss():
        dist.all_gather_object(things, thing, group=group)
    return things


def sums(numbers: Iterable[float]) -> list[float]:
    """The sum of each number over the processes; raises as `everyone`."""
    return [sum(column) for column in zip(*everyone(list(numbers)), strict=True)]


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes, the same in each of them; raises as `everyone`."""
    if count() == 1:
        return tensor
    everyone(None)  # notices at once that a process has ended, and may wait for longer
    return _summed(tensor.detach().clone())


def gather(values: Tensor) -> Tensor:
    """The entries ``[n]`` of all processes, by rank; n may differ. Raises as `everyone`."""
    if count() == 1:
        return values
    return torch.cat(everyone(values.detach().cpu())).to(values.device)


def mean(values: Tensor) -> float:
    """The mean over the entries ``[n]`` of all processes; raises as `everyone`."""
    return float(gather(values).mean())


def added(parts: Mapping[str, float]) -> dict[str, float]:
    """The sums of named numbers over the processes, some of which may have none of a name; raises
    as `everyone`."""
    found: dict[str, float] = {}
    for of_rank in everyone(dict(parts)):
        for name, value in of_rank.items():
            found[name] = found.get(name, 0.0) + value
    return found


def add_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum the gradients of parameters, the same ones in each process, over the processes, in place.

    A process without rows has no gradients; it gets those of the others.

    Raises:
        ProcessLost: another process has ended; no gradient has been changed.
    """
    if count() == 1:
        return
    flags = everyone([p.grad is not None for p in parameters])
    has_gradient = [any(column) for column in zip(*flags, strict=True)]
    learning = [p for p, here in zip(parameters, has_gradient, strict=True) if here]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    if gradients:
        summed = _summed(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        pieces = summed.split([p.numel() for p in learning])
        for parameter, piece in zip(learning, pieces, strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)


def _summed(tensor: Tensor) -> Tensor:
    """`total`, which may write into the tensor."""
    sent = tensor.to(meet().device)
    with _noticing_loss():
        dist.all_reduce(sent)
    return sent.to(tensor.device)


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process; raises as `everyone`."""
    if count() == 1:
        return
    everyone(None)
    device = meet().device
    for tensor in tensors:
        sent = tensor.detach().to(device).contiguous()
        with _noticing_loss():
            dist.broadcast(sent, src=0)
        tensor.detach().copy_(sent)


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessLost(
            "Another process of this run has ended, or cannot be reached: the run ends here."
        ) from error


@cache
def _messages() -> Any:
    """The group of processes for small things: gloo notices at once that a process has ended."""
    meet()
    return dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
