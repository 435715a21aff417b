"""One optimiser step on a batch, in micro-batches if the whole batch does not fit in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from agents import distributed
from agents.experience.rollout import Batch
from textenv.arrays import to_host

Loss = Callable[[Batch], tuple[Tensor, Mapping[str, Tensor | float]]]
Schedule = Callable[[float], float]  # of the remaining progress, from 1 to 0


def at_progress(value: float | Schedule, progress_remaining: float) -> float:
    """The value of a hyper-parameter, a number or a schedule, at a remaining progress."""
    return float(value(progress_remaining) if callable(value) else value)


# Factors of the learning rate, by the remaining progress from 1 to 0. "linear" ends at 0, so that
# the noise of the last steps does not stay in the weights (Robbins and Monro 1951 demand it of any
# stochastic approximation; the PPO of OpenAI's baselines anneals in this way).
LR_SCHEDULES: dict[str, Schedule] = {
    "constant": lambda progress_remaining: 1.0,
    "linear": lambda progress_remaining: progress_remaining,
    "cosine": lambda progress_remaining: (1 + math.cos(math.pi * (1 - progress_remaining))) / 2,
}


def lr_schedule(name: str) -> Schedule:
    """One of `LR_SCHEDULES`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in LR_SCHEDULES:
        raise ValueError(f"lr_schedule={name!r} is unknown: use one of {', '.join(LR_SCHEDULES)}.")
    return LR_SCHEDULES[name]


def actor_and_critic(policy: Any, vf_learning_rate: float | None) -> list[Any]:
    """The parameters of a policy that learn: those of the critic alone in a group of their own.

    Args:
        policy: see `agents.policies.base.Policy`.
        vf_learning_rate: of the critic's own parameters, whose epsilon is then 1e-5; None puts all
            parameters in one group.
    """
    every = [p for p in policy.parameters() if p.requires_grad]
    if vf_learning_rate is None:
        return every
    critic = policy.critic_parameters()
    own = {id(p) for p in critic}
    others = [p for p in every if id(p) not in own]
    return [{"params": others}, {"params": critic, "lr": vf_learning_rate, "eps": 1e-5}]


def make_optimizer(
    parameters: Any, learning_rate: float | Schedule, weight_decay: float, epsilon: float
) -> torch.optim.AdamW:
    """AdamW over ``parameters``, which may be in groups, at the beginning of a schedule.

    A group with an ``lr`` of its own keeps its ratio to ``learning_rate`` along the schedule.
    """
    start = at_progress(learning_rate, 1.0)
    optimizer = torch.optim.AdamW(
        parameters,
        lr=start,
        eps=epsilon,
        fused=True,  # one kernel instead of many per parameter
        weight_decay=weight_decay,
    )
    for group in optimizer.param_groups:
        group["lr_scale"] = group["lr"] / start if start > 0 else 1.0
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of every parameter group, in the ratio that `make_optimizer` noted."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)


def optimizer_step(
    loss: Loss,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    micro_batch_size: int | None = None,
    max_grad_norm: float | None = None,
) -> dict[str, float]:
    """Minimise ``loss`` by one step on all parameters of ``optimizer``.

    Args:
        loss: gives a scalar and metrics of a batch, all divided by ``batch.counts``, so that they
            add up over micro-batches.
        batch: the rows of this step; where several processes learn together, this one's share of
            them, which may be empty.
        optimizer: may have several parameter groups.
        micro_batch_size: rows per backward pass; None takes all at once.
        max_grad_norm: the gradient of each parameter group is clipped to this norm, so that a
            large error of the critic does not shorten the policy's step; None does not clip.

    Returns:
        The metrics, and ``grad_norm`` of all groups before clipping, the same in all processes.

    Raises:
        FloatingPointError: the gradient is not finite; no parameter was changed.
        ProcessLost: another process has ended; no parameter was changed.
    """
    counted, batch = batch.counts.steps > 0, batch.of_all()
    optimizer.zero_grad(set_to_none=True)
    groups = [group["params"] for group in optimizer.param_groups]
    parameters = [p for group in groups for p in group]
    parts: dict[str, list[Tensor | float]] = {}
    for part in batch.micro_batches(micro_batch_size) if counted else ():
        value, metrics = loss(part)
        value.backward(inputs=parameters)
        for name, metric in metrics.items():
            part_of_it = metric.detach() if isinstance(metric, Tensor) else metric
            parts.setdefault(name, []).append(part_of_it)
    distributed.all_reduce_gradients(parameters)
    limit = math.inf if max_grad_norm is None else max_grad_norm
    norms = [nn.utils.clip_grad_norm_(group, limit) for group in groups]
    # A device is waited for here alone: its work has been queued up to the step itself.
    found = iter(numbers([*(part for each in parts.values() for part in each), *norms]))
    sums = distributed.all_reduce_named(
        {name: sum(islice(found, len(each))) for name, each in parts.items()}
    )
    sums["grad_norm"] = math.hypot(*found)
    if not math.isfinite(sums["grad_norm"]):
        raise FloatingPointError(
            "The gradient is not finite: lower learning_rate, or look for infinite rewards."
        )
    optimizer.step()
    return sums


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
    """Raise an error if an update has left a parameter that is not a finite number.

    Args:
        parameters: of a policy.
        rollout: the number of the update, for the message.

    Raises:
        FloatingPointError: a parameter is infinite or not a number.
    """
    norms = torch.stack(torch._foreach_norm([p.detach() for p in parameters]))
    if not bool(torch.isfinite(norms).all()):
        raise FloatingPointError(
            f"The update of rollout {rollout} has left weights that are not finite numbers: lower "
            "learning_rate, or look for extreme rewards. The last checkpoint is from before it."
        )
