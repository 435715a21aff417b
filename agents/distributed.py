"""Several processes that learn together, each with its own part of the rows.

``torchrun`` and ``accelerate launch`` start a program several times. Each process (its number is
its *rank*) collects experience in rows of its own; what has to be known of all rows is exchanged
here: counts, statistics, gradients, decisions. So each step makes the same weights in all of them.

A loss is divided by the counts of the whole step, so gradients are summed, and parts may be of any
size: an empty one adds nothing.

Every process has to call these functions at the same points and in the same order. A program that
was started once has one process: then they return what they are given, and need no other package.
"""

import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from agents.functional.natural_gradient import flatten, unflatten

# The environment variable that, if it is not empty, lets each process learn alone, as in a sweep
# whose runs a launcher starts.
ALONE = "AGENTS_ALONE"

# A process that ends is noticed at once. This ends the waiting for one that hangs, and has to be
# longer than the first process evaluates while the others wait for it.
LONGEST_WAIT = timedelta(hours=6)

_in_a_block = False  # of `raise_in_all_processes`


class ProcessLost(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


# --- who is here --------------------------------------------------------------------------------


def process_count() -> int:
    """The number of processes; 1 where the environment says that each is alone (`ALONE`)."""
    if os.environ.get(ALONE) or not os.environ.get("RANK"):
        return 1
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if process_count() > 1 else 0


def is_main() -> bool:
    """Whether this is the first process, which alone prints, logs, evaluates and saves."""
    return rank() == 0


def local_rows(name: str, rows: int, group_size: int = 1) -> int:
    """The number of this process's rows, of so many in all; ``group_size`` rows stay together.
    ``name`` is that of the argument, for the message."""
    count = process_count()
    if count > 1 and rows % (count * group_size):
        groups = "" if group_size == 1 else f" in groups of {group_size}"
        raise ValueError(
            f"{name}={rows} cannot be divided equally among {count} processes{groups}: use a "
            f"multiple of {count * group_size}."
        )
    return rows // count


# --- meeting ------------------------------------------------------------------------------------


def join(device: str) -> str:
    """Meet the other processes, and return the device of this one: for "cuda", say "cuda:1"."""
    asked = torch.device(device)
    here = _met(asked.type == "cpu").device
    _messages()
    if asked.type == "cpu" or asked.type != here.type:
        return device
    if asked.index not in (None, here.index):
        raise ValueError(
            f"device={device!r} would be that of each process: use 'auto', which gives each one of "
            "its own."
        )
    return str(here)


def _met(cpu: bool | None = None) -> Any:
    """What accelerate knows of the processes, which the first call waits for."""
    return _partial_state(not torch.cuda.is_available() if cpu is None else cpu)


@cache
def _partial_state(cpu: bool) -> Any:
    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"This program was started as one of {process_count()} processes, which need "
            "accelerate: pip install accelerate."
        ) from error
    if is_main():
        print(f"waiting for {process_count()} processes", file=sys.stderr)
    state = PartialState(cpu=cpu)
    if state.num_processes != process_count():
        raise RuntimeError(
            f"The environment says that there are {process_count()} processes (WORLD_SIZE), but "
            f"accelerate finds {state.num_processes}: start them with torchrun, or set {ALONE}=1."
        )
    return state


@cache
def _messages() -> Any:
    """The group of processes for small things: gloo notices at once that a process has ended."""
    _met()
    group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    # The first process may serve the store by which they meet. Without this barrier its end, as by
    # an argument that all refuse, breaks off the meeting of the others: an error of the network.
    dist.barrier(group=group)
    return group


# --- exchanging ---------------------------------------------------------------------------------


def all_gather(thing: Any) -> list[Any]:
    """What each process gives, by rank; of small things, which are pickled. A process that has
    ended is a ProcessLost in the others."""
    if process_count() == 1:
        return [thing]
    things: list[Any] = [None] * process_count()
    group = _messages()
    with _noticing_loss():
        dist.all_gather_object(things, thing, group=group)
    return things


def all_reduce(numbers: Iterable[float]) -> list[float]:
    """The sum of each number over the processes; raises as `all_gather`."""
    return [sum(column) for column in zip(*all_gather(list(numbers)), strict=True)]


def all_reduce_named(parts: Mapping[str, float]) -> dict[str, float]:
    """The sums of named numbers over the processes, some of which may have none of a name; raises
    as `all_gather`."""
    found: dict[str, float] = {}
    for part in all_gather(dict(parts)):
        for name, value in part.items():
            found[name] = found.get(name, 0.0) + value
    return found


def all_reduce_tensor(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes, the same in each; raises as `all_gather`."""
    if process_count() == 1:
        return tensor
    all_gather(None)  # notices at once that a process has ended, and may wait for longer
    return _summed(tensor.detach().clone())


def all_reduce_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum the gradients of parameters, the same ones in each process, over the processes, in place.

    A process without rows has no gradients; it gets those of the others.
    """
    if process_count() == 1:
        return
    flags = all_gather([p.grad is not None for p in parameters])
    has_gradient = [any(column) for column in zip(*flags, strict=True)]
    learning = [p for p, here in zip(parameters, has_gradient, strict=True) if here]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    if gradients:
        pieces = unflatten(_summed(flatten(gradients)), like=learning)
        for parameter, piece in zip(learning, pieces, strict=True):
            parameter.grad = piece.to(parameter.dtype)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process; raises as `all_gather`."""
    if process_count() == 1:
        return
    all_gather(None)
    device = _met().device
    for tensor in tensors:
        sent = tensor.detach().to(device).contiguous()
        with _noticing_loss():
            dist.broadcast(sent, src=0)
        tensor.detach().copy_(sent)


def _summed(tensor: Tensor) -> Tensor:
    """`all_reduce_tensor`, which may write into the tensor."""
    sent = tensor.to(_met().device)
    with _noticing_loss():
        dist.all_reduce(sent)
    return sent.to(tensor.device)


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


# --- ending -------------------------------------------------------------------------------------


def raises_in_all_processes() -> bool:
    """Whether an error that is raised now is raised in all processes."""
    return process_count() == 1 or _in_a_block


@contextmanager
def raise_in_all_processes() -> Iterator[None]:
    """A block that ends in all processes if it ends in one: an error of one is raised in all.

    Each process waits for the others at the end of the block, in which they must not exchange
    anything. It raises its own error, else that of the first process that has one.
    """
    if process_count() == 1:
        yield
        return
    global _in_a_block
    own: BaseException | None = None
    try:
        _in_a_block = True
        yield
        _in_a_block = False
    except BaseException as error:
        _in_a_block, own = False, error
    try:
        errors = all_gather(None if own is None else _sendable(own))
    except ProcessLost:
        if own is None or not isinstance(own, Exception):
            raise  # a signal is the launcher's, which ends the processes that are left
        errors = []
    except Exception:  # they were never met, and the error of this process may say why
        if own is None:
            raise
        errors = []
    for one in [own, *errors]:
        if one is not None:
            one.in_all_processes = True
            raise one


def wait_for_save(error: BaseException) -> None:
    """After an error of `raise_in_all_processes`, wait until the first process has saved.

    A launcher ends all other processes once one of them has ended with an error.
    """
    if process_count() > 1 and getattr(error, "in_all_processes", False):
        with suppress(ProcessLost):
            all_gather(None)


@contextmanager
def silent_unless_main() -> Iterator[None]:
    """Print nothing in a process other than the first, unless its program fails."""
    if is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except SystemExit as ending:  # Python would print a sentence that the first one prints
            sys.exit(1 if isinstance(ending.code, str) else ending.code)


def _sendable(error: BaseException) -> BaseException:
    """The error itself if it survives pickling, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"process {rank()}: {type(error).__name__}: {error}")
