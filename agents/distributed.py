"""Several processes that learn together, each with its own part of the rows.

``torchrun``, or a launcher that sets the same variables, starts a program several times. Each
process (its number is its *rank*) collects experience in rows of its own; what has to be known of
all rows is exchanged here: counts, statistics, gradients, decisions. So each step makes the same
weights in all of them.

A loss is divided by the counts of the whole step, so gradients are summed, and parts may be of any
size: an empty one adds nothing. Every process has to call these functions at the same points and in
the same order. One that was started alone gets what it gives.

Weights that are *sharded* are PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`): of each layer
a process keeps its part, with the part's gradient and moments of the optimiser, and it has the
whole layer only while it computes with it. Since the processes then meet in each layer of each
pass, all of them have to make the same number of passes (`in_step`).
"""

import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from agents.functional.natural_gradient import flatten, unflatten

# The environment variable that, if not empty, lets each process learn alone, as in a sweep.
ALONE = "AGENTS_ALONE"

# For one that hangs; it has to be longer than the first process evaluates while the others wait.
LONGEST_WAIT = timedelta(hours=6)

OF_GLOO = ("gloo", "Connection closed", "Connection reset")  # in its errors, which have no class

_in_a_block, _exchanges = False, 0  # of `raise_in_all_processes`, and of `all_gather`


class ProcessLost(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


class _Failed(NamedTuple):  # a block of all processes, by this error
    error: BaseException


# --- who is here --------------------------------------------------------------------------------


def process_count() -> int:
    """The number of processes; 1 where the environment says that each is alone (`ALONE`)."""
    if os.environ.get(ALONE) or not os.environ.get("RANK"):
        return 1
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """The number of this process."""
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
    here = _met(asked.type == "cpu")
    _messages()
    if asked.type == "cpu" or asked.type != here.type:
        return device
    if asked.index not in (None, here.index):
        raise ValueError(
            f"device={device!r} would be that of each process: use 'auto', which gives each one of "
            "its own."
        )
    return str(here)


def _met(cpu: bool = False) -> torch.device:
    """Where this process exchanges tensors; the first call, which may ask for the ``cpu``, waits
    for the others."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if not dist.is_initialized():
        if is_main():
            print(f"waiting for {process_count()} processes", file=sys.stderr)
        if cpu or accelerator is None:
            dist.init_process_group("gloo")
        else:
            torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group(dist.get_default_backend_for_device(accelerator))
    if accelerator is None or dist.get_backend() == "gloo":
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())


@cache
def _messages() -> Any:
    """The group of processes for small things: gloo notices at once that a process has ended."""
    _met()
    with noticing_loss():
        group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        # The first process may serve the store by which they meet. Without this barrier its end, as
        # by an argument that all refuse, breaks off the meeting of the others.
        dist.barrier(group=group)
    return group


# --- exchanging ---------------------------------------------------------------------------------


def all_gather(thing: Any) -> list[Any]:
    """What each process gives, by rank; of small things, which are pickled. A process that has
    ended is a ProcessLost in the others."""
    if process_count() == 1:
        return [thing]
    global _exchanges
    _exchanges += 1
    things: list[Any] = [None] * process_count()
    group = _messages()
    with noticing_loss():
        dist.all_gather_object(things, thing, group=group)
    for each in things:
        if isinstance(each, _Failed):  # in a block in which this process still is
            each.error.in_all_processes = True  # type: ignore[attr-defined]
            raise each.error
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
    One without rows gets those of the others. Those of sharded parameters are sums already."""
    if process_count() == 1:
        return
    for own in parameters:
        if (sharded := sharded_of(own)) is not None:
            own.grad = None if sharded.grad is None else sharded.grad.to_local()
            sharded.grad = None
    parameters = [p for p in parameters if sharded_of(p) is None]
    flags = all_gather([p.grad is not None for p in parameters])
    has_gradient = [any(column) for column in zip(*flags, strict=True)]
    learning = [p for p, here in zip(parameters, has_gradient, strict=True) if here]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    if gradients:
        pieces = unflatten(_summed(flatten(gradients)), like=learning)
        for parameter, piece in zip(learning, pieces, strict=True):
            parameter.grad = piece.to(parameter.dtype)


def clip_grad_norm(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` for parameters of which some may be sharded."""
    parts = [p for p in parameters if sharded_of(p) is not None]
    if not parts:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    every = [p for p in parameters if sharded_of(p) is None]
    here, there = (
        nn.utils.get_total_norm([p.grad for p in some if p.grad is not None]).double()
        for some in (every, parts)
    )
    norm = (here.square() + _summed(there.square())).sqrt().float()
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process, except sharded ones; raises as
    `all_gather`."""
    if process_count() == 1:
        return
    all_gather(None)
    for tensor in (tensor for tensor in tensors if not isinstance(tensor, DTensor)):
        sent = tensor.detach().to(_met()).contiguous()
        with noticing_loss():
            dist.broadcast(sent, src=0)
        tensor.detach().copy_(sent)


def _summed(tensor: Tensor) -> Tensor:
    """`all_reduce_tensor`, which may write into the tensor."""
    sent = tensor.to(_met())
    with noticing_loss():
        dist.all_reduce(sent)
    return sent.to(tensor.device)


# --- sharding -----------------------------------------------------------------------------------


def shard(body: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Keep only a part of the weights of each of the ``layers`` of a body in this process. Its
    other weights stay whole in all of them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    broadcast(body.state_dict().values())
    mesh = init_device_mesh(_met().type, (process_count(),))
    units = [*layers, body]
    others = {*body.parameters()}.difference(*(layer.parameters() for layer in units[:-1]))
    for module in units:
        unit: Any = fully_shard(module, mesh=mesh, ignored_params=others)
        # Losses carry the counts of all rows, so that gradients are sums.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)


def own_part(parameter: Tensor) -> Tensor:
    """What an optimiser changes: of a sharded parameter the part of this process, in its memory;
    any other one itself."""
    if not isinstance(parameter, DTensor):
        return parameter
    part: Any = nn.Parameter(parameter.to_local().detach())
    part.sharded = parameter
    return part


def sharded_of(part: Tensor) -> Any:
    """The sharded parameter of which a tensor is the `own_part`; None of any other one."""
    return getattr(part, "sharded", None)


def whole(tensor: Tensor, part_of: Tensor | None = None) -> Tensor:
    """A sharded tensor with the parts of all processes, which all have to call this. ``part_of``:
    the `own_part` as which the tensor belongs to a sharded parameter, such as its moments."""
    sharded = None if part_of is None else sharded_of(part_of)
    if sharded is not None and tensor.ndim:
        tensor = DTensor.from_local(
            tensor, sharded.device_mesh, sharded.placements, run_check=False,
            shape=sharded.shape, stride=sharded.stride(),
        )  # fmt: skip
    with noticing_loss():
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, where ``like``, a parameter or its `own_part`, is one
    of a sharded one."""
    sharded = like if isinstance(like, DTensor) else sharded_of(like)
    if sharded is None or not whole.ndim:
        return whole
    where = sharded.device_mesh, sharded.placements
    return distribute_tensor(whole.to(sharded.device), *where, src_data_rank=None).to_local()


def on_main(tensors: Iterable[tuple[str, Tensor, Tensor | None]]) -> dict[str, Tensor]:
    """Names and tensors, with what each is ``part_of`` (`whole`), whole and in the memory of the
    first process; the others, which all have to call this, get none."""
    all_gather(None)  # notices at once that a process has ended
    every = ((name, whole(tensor.detach(), part)) for name, tensor, part in tensors)
    found = ((name, each.to("cpu", copy=True) if is_main() else None) for name, each in every)
    return {name: each for name, each in found if each is not None}


def in_step(things: Iterable[Any], idle: Any) -> Iterator[Any]:
    """The things of this process, and then ``idle`` ones, so that all have as many."""
    here = list(things)
    most = max(all_gather(len(here)))  # before the first one, in which they meet again
    yield from here + [idle] * (most - len(here))


@contextmanager
def noticing_loss() -> Iterator[None]:
    """A block of exchanges, as the passes through sharded weights are, and of other work: that
    another process has ended is a `ProcessLost`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in OF_GLOO):
            raise ProcessLost(
                "Another process of this run has ended, or cannot be reached: the run ends here."
            ) from error
        raise


# --- ending -------------------------------------------------------------------------------------


def raises_in_all_processes() -> bool:
    """Whether an error that is raised now is raised in all processes."""
    return process_count() == 1 or _in_a_block


@contextmanager
def raise_in_all_processes() -> Iterator[None]:
    """A block that ends in all processes if it ends in one: an error of one is raised in all.

    Each process waits for the others at the end of the block. It raises its own error, else that of
    the first process that has one. If it fails after it has exchanged something in the block, it
    does not wait for the others, which notice that it has ended.
    """
    if process_count() == 1:
        yield
        return
    global _in_a_block
    outer, before = _in_a_block, _exchanges
    try:
        _in_a_block = True
        yield
    except BaseException as error:
        if _exchanges == before:
            try:
                all_gather(_Failed(_sendable(error)))
            except ProcessLost:
                if not isinstance(error, Exception):
                    raise  # a signal is the launcher's, which ends the processes that are left
            except Exception:
                pass  # that of another one; or they were never met
            error.in_all_processes = True  # type: ignore[attr-defined]
        raise
    finally:
        _in_a_block = outer
    all_gather(None)


def wait_for_save(error: BaseException) -> None:
    """After an error of `raise_in_all_processes`, wait until the first process has saved: a
    launcher ends all other processes once one of them has ended with an error."""
    if process_count() > 1 and getattr(error, "in_all_processes", False):
        with suppress(ProcessLost):
            all_gather(None)


def _sendable(error: BaseException) -> BaseException:
    """The error itself if it survives pickling, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"process {rank()}: {type(error).__name__}: {error}")
