"""Optimiser steps: learning rates, and one step on a batch that may not fit into memory at once."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from agents import distributed
from agents.experience.rollout import Batch
from agents.functional import natural_gradient
from agents.functional.reductions import Counts
from agents.training.hyperparameters import Schedule
from textenv.arrays import to_host

Loss = Callable[[Batch], Tensor]


def at_progress(value: float | Schedule, progress_remaining: float) -> float:
    """The value of a hyper-parameter, a number or a schedule, at a remaining progress."""
    return float(value(progress_remaining) if callable(value) else value)


PROGRESS_POINTS = 1001  # at which a schedule's largest value is looked for

# Factors of the learning rate, by the remaining progress from 1 to 0. "linear" ends at 0, so that
# the noise of the last steps does not stay in the weights (Robbins and Monro 1951 demand it of any
# stochastic approximation; the PPO of OpenAI's baselines anneals in this way).
LR_SCHEDULES: dict[str, Schedule] = {
    "constant": lambda progress_remaining: 1.0,
    "linear": lambda progress_remaining: progress_remaining,
    "cosine": lambda progress_remaining: (1 + math.cos(math.pi * (1 - progress_remaining))) / 2,
}


def lr_schedule(name: str) -> Schedule:
    """One of `LR_SCHEDULES`."""
    if name not in LR_SCHEDULES:
        raise ValueError(f"lr_schedule={name!r} is unknown: use one of {', '.join(LR_SCHEDULES)}.")
    return LR_SCHEDULES[name]


def make_optimizer(
    parameters: Any, learning_rate: float | Schedule, weight_decay: float, epsilon: float
) -> torch.optim.AdamW:
    """AdamW over ``parameters``, which may be in groups, as `torch.optim.AdamW` takes them; of
    sharded ones over the parts of this process.

    A group with an ``lr`` of its own has it where ``learning_rate``, a number or a schedule, is at
    its largest; along the schedule the two keep their ratio.
    """
    parameters = [
        {**group, "params": [distributed.own_part(p) for p in group["params"]]}
        for group in (parameters if isinstance(parameters[0], dict) else [{"params": parameters}])
    ]
    progress = torch.linspace(1, 0, PROGRESS_POINTS, dtype=torch.float64).tolist()
    peak = max(at_progress(learning_rate, at) for at in progress)
    # Fused: one kernel instead of many per parameter.
    optimizer = torch.optim.AdamW(
        parameters, lr=peak, eps=epsilon, fused=True, weight_decay=weight_decay
    )
    for group in optimizer.param_groups:
        group["own_rate"], group["ratio"] = group["lr"], group["lr"] / peak if peak > 0 else None
    return optimizer


def set_learning_rate(
    optimizer: torch.optim.Optimizer, learning_rate: float, factor: float = 1.0
) -> None:
    """Set the rate of every parameter group, in the ratio that `make_optimizer` noted. All are
    multiplied by ``factor``, also that of a group where the common one is always 0."""
    rate = learning_rate * factor
    for group in optimizer.param_groups:
        ratio = group.get("ratio", 1.0)
        group["lr"] = group["own_rate"] * factor if ratio is None else rate * ratio


def optimizer_step(
    loss: Loss,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    micro_batch_size: int | None = None,
    max_grad_norm: float | None = None,
    stop: Callable[[dict[str, float]], bool] | None = None,
) -> tuple[dict[str, float], bool]:
    """Minimise ``loss`` by one step on all parameters of ``optimizer``.

    Args:
        loss: a scalar of a batch, and what it notes in `Batch.means`, all divided by
            ``batch.counts``, so that they add up over micro-batches.
        batch: the rows of this step; where several processes learn together, this one's share of
            them, which may be empty.
        micro_batch_size: rows per backward pass; None takes all at once.
        max_grad_norm: the gradient of each parameter group is clipped to this norm, so that a
            large error of the critic does not shorten the policy's step; None does not clip.
        stop: is told the metrics before the step; if it returns True, no step is taken.

    Returns:
        The metrics, with ``grad_norm`` of all groups before clipping, the same in all processes;
        and whether the step was taken. After an error no parameter is changed.
    """
    counted = batch.counts.steps > 0
    batch = replace(batch, counts=Counts(*distributed.all_reduce(batch.counts)))
    optimizer.zero_grad(set_to_none=True)
    groups = [group["params"] for group in optimizer.param_groups]
    parameters = [p for group in groups for p in group]
    for parameter in parameters:
        if (sharded := distributed.sharded_of(parameter)) is not None:
            sharded.grad = None  # of a step that has failed
    parts: dict[str, list[Tensor]] = {}
    for part in batch.micro_batches(micro_batch_size) if counted or batch.in_step else ():
        # Of sharded weights the leaves are others than what the optimiser changes.
        loss(part).backward(inputs=None if batch.in_step else parameters)
        for name, mean in part.means.items():
            parts.setdefault(name, []).append(mean)
    distributed.all_reduce_gradients(parameters)
    limit = math.inf if max_grad_norm is None else max_grad_norm
    norms = [distributed.clip_grad_norm(group, limit) for group in groups]
    # A device is waited for here alone: its work has been queued up to the step itself.
    found = iter(numbers([*(part for each in parts.values() for part in each), *norms]))
    here = {name: sum(islice(found, len(each))) for name, each in parts.items()}
    metrics = distributed.all_reduce_named(here)
    metrics["grad_norm"] = math.hypot(*found)
    if not math.isfinite(metrics["grad_norm"]):
        raise FloatingPointError(_not_finite(batch))
    goes_on = stop is None or not stop(metrics)
    if goes_on:
        optimizer.step()
    return metrics, goes_on


def _not_finite(batch: Batch) -> str:
    """What to do about a gradient that is not finite, by the first number that is none either."""
    for values, why in (
        (batch.old_log_probs, "the policy gave its own actions log-probabilities that are not "
         "finite: its weights are damaged, or too large for its dtype"),
        (batch.reference, "the reference gives the probability 0, or no number at all, to actions "
         "of the policy: look for banned tokens, damaged weights, or a dtype that is too small"),
        (batch.old_values, "the critic's values are not finite"),
        (batch.advantages, "the advantages are not finite: look for infinite rewards, or a "
         "reference that gives the probability 0 to actions of the policy, or lower learning_rate"),
    ):  # fmt: skip
        if values is not None and values.shape == batch.mask.shape:
            if not values[batch.mask].isfinite().all():
                return f"The gradient is not finite, for {why}."
    return "The gradient is not finite: lower learning_rate, or look for infinite rewards."


# --- sums over parts, for steps that are not those of an optimiser ------------------------------


def in_parts(batch: Batch, micro_batch_size: int | None) -> list[Batch]:
    """A batch in parts that fit into memory, with the counts of all processes."""
    whole = replace(batch, counts=Counts(*distributed.all_reduce(batch.counts)))
    return list(whole.micro_batches(micro_batch_size))


def total(
    function: Callable[[Batch], Sequence[Tensor]], parts: Sequence[Batch], count: int = 1
) -> list[float]:
    """What a function gives of each part, ``count`` scalars, summed over parts and processes."""
    sums: list[Any] = [0.0] * count
    for part in parts:
        found = function(part)
        sums = [before + value.detach().double() for before, value in zip(sums, found, strict=True)]
    return distributed.all_reduce(numbers(sums))


def value_and_gradient(
    loss: Loss, parts: Sequence[Batch], parameters: Sequence[Tensor]
) -> tuple[float, Tensor]:
    """A loss, and its gradient as one vector, summed over parts and processes."""
    gradient = natural_gradient.flatten(map(torch.zeros_like, parameters))

    def step(part: Batch) -> list[Tensor]:
        value = loss(part)
        grads = torch.autograd.grad(value, parameters, materialize_grads=True)
        gradient.add_(natural_gradient.flatten(grads))
        return [value]

    (value,) = total(step, parts)
    return value, distributed.all_reduce_tensor(gradient)


def hessian_operator(
    loss: Loss, parts: Sequence[Batch], parameters: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """v → H v, with H the Hessian of a loss, summed over parts and processes."""
    here = natural_gradient.summed_operator([partial(loss, part) for part in parts], parameters)
    return lambda vector: distributed.all_reduce_tensor(here(vector))


def numbers(metrics: Iterable[Tensor | float]) -> list[float]:
    """Scalars as numbers; those on a device come to the host in one copy, which waits for it."""
    values = list(metrics)
    at = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
    if at:
        on_host = to_host(*(torch.as_tensor(values[place]) for place in at))
        for place, value in zip(at, on_host, strict=True):
            values[place] = float(value)
    return [float(value) for value in values]


def check_finite(parameters: Iterable[Tensor], rollout: int) -> None:
    """Raise an error if the update of a ``rollout``, by its number, has left a parameter that is
    not a finite number."""
    own = [distributed.own_part(p).detach() for p in parameters]
    norms = torch.stack(torch._foreach_norm(own))
    if any(distributed.all_gather(not bool(torch.isfinite(norms).all()))):
        raise FloatingPointError(
            f"The update of rollout {rollout} has left weights that are not finite numbers: lower "
            "learning_rate, or look for extreme rewards. The last checkpoint is from before it."
        )
