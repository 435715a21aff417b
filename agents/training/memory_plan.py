"""How much memory learning needs at most, measured on two rows before it begins."""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents import distributed
from agents.experience import environments
from textenv.lm import log_probs
from textenv.lm.decoder import Decoder
from textenv.lm.parts import by_layer, split
from textenv.lm.responses import Responses

GIGABYTE, MEGABYTE = 1e9, 1e6
MOMENTS = 2  # of AdamW
SECOND_DERIVATIVES = 3  # times the memory of first ones
LOGITS_AT_ONCE = 3  # the logits of a chunk, their softmax and its gradient, each in float32


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that an agent needs, if all episodes take their whole budget."""

    # Of the policy, of the copy that acts in reduced precision, and of the reference; what they
    # share counts once.
    weights: int
    learning: int  # gradients, and the moments of the optimiser
    cache: int  # keys and values of a rollout
    activations: int  # what the backward pass over one part of a batch needs

    @property
    def total(self) -> int:
        return sum(astuple(self))

    def __str__(self) -> str:
        return (
            f"{_size(self.total)} at most: weights {_size(self.weights)}, gradients and optimiser "
            f"{_size(self.learning)}, cache {_size(self.cache)}, activations "
            f"{_size(self.activations)}"
        )

    def advice(self, free: float | None) -> str | None:
        """A sentence for the user if the bytes that are ``free`` (None: unknown), while the weights
        are in memory already, do not suffice; None if they do."""
        if free is None or self.total - self.weights <= free:
            return None
        remedy = {
            self.learning: "learn adapters, --lora 16",
            self.cache: "take fewer episodes per rollout, --n-envs",
            self.activations: "take fewer rows per backward pass, --micro-batch-size",
        }[max(self.learning, self.cache, self.activations)]
        return f"Only {_size(free)} are free beside the weights: {remedy}."


def memory_plan(agent: Any) -> MemoryPlan:
    """The memory that an agent with a language model, in a text environment, needs to learn, in
    this process."""
    policy, task = agent.policy, environments.text_environments(agent.env)[0].task
    budget, length = task.max_new_tokens, task.max_length
    models = [
        policy, policy.acting_model(), policy.acting_critic(), environments.reference(agent.env)
    ]  # fmt: skip
    every = [p for model in models if model is not None for p in model.parameters()]
    weights = [distributed.own_part(p) for p in every]
    learning = [distributed.own_part(p) for p in policy.parameters() if p.requires_grad]
    optimized = [p for group in agent.optimizer.param_groups for p in group["params"]]
    critic = policy.acting_critic()
    body = split(policy.acting_model())[0] if policy.sharded else policy.body
    bodies = [body] if critic is None else [body, critic]
    rows, part = agent.env.num_envs, rows_at_once(agent)
    vocabulary = len(policy.head.embeddings.weight)
    logits = vocabulary * min(part * budget, log_probs.CHUNK_ELEMENTS // vocabulary)
    activations = 0
    for body in bodies:
        for share, checkpointing in _kept(policy, body):
            one, two = (
                _saved(policy, body, count, length, budget, checkpointing) for count in (1, 2)
            )
            activations += round(share * (one + (two - one) * (part - 1)))
    acting = [policy.acting_model(), *bodies[1:]]
    return MemoryPlan(
        weights=_bytes(weights),
        learning=_bytes(learning) + MOMENTS * _bytes(optimized),
        cache=rows * sum(_cached(model, length) for model in acting),
        activations=activations + logits * LOGITS_AT_ONCE * torch.float32.itemsize,
    )


def rows_at_once(agent: Any) -> int:
    """The rows of a backward pass in this process; of plain memory, where it takes more."""
    every = agent.env.num_envs
    batch_size = getattr(agent, "batch_size", None)
    own = every if batch_size is None else math.ceil(batch_size / distributed.process_count())
    first = agent.micro_batch_size or min(own, every)
    if not hasattr(agent, "fisher_rows"):
        return first
    first = agent.micro_batch_size or every
    return max(first, SECOND_DERIVATIVES * min(first, agent.fisher_rows or every))


def free_memory(device: torch.device) -> float | None:
    """Bytes that are free on a device; None if nobody says."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    try:  # Linux
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


def _size(count: float) -> str:
    return f"{count / GIGABYTE:.1f} GB" if count > GIGABYTE / 2 else f"{count / MEGABYTE:.0f} MB"


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of the memory behind tensors, which some may share."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _kept(policy: Any, body: nn.Module) -> list[tuple[float, bool]]:
    """Which shares of a pass with and without checkpointing are kept at once."""
    if not policy.gradient_checkpointing:
        return [(1.0, False)]
    return [(1.0, True), (1 / len(by_layer(body)[0]), False)]  # the layer that is computed again


def _saved(
    policy: Any, body: nn.Module, rows: int, length: int, budget: int, checkpointing: bool
) -> int:
    """What is kept for the backward pass of different rows, beside the weights, in bytes."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    device = policy.device
    # A token of its own for each row, so that no prompt is shared.
    ids = torch.arange(rows, device=device)[:, None].repeat(1, length)
    lengths = torch.full((rows,), length - budget, device=device)
    mask = torch.ones(rows, budget, dtype=torch.bool, device=device)
    responses = Responses(ids, lengths, mask)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.hidden_states(body, responses, checkpointing)
        weights = [distributed.own_part(p) for p in policy.parameters()]
        weights += [*body.parameters(), *body.buffers()]
        return _bytes([*kept, *weights]) - _bytes(weights)


@torch.no_grad()
def _cached(model: nn.Module, length: int) -> int:
    """Keys and values of one row, in bytes."""
    decoder = Decoder(model, 1, length, head=lambda hidden: hidden, captured=False)
    ids = torch.zeros(1, length, dtype=torch.int64, device=decoder.device)
    decoder.next(ids, torch.ones(1, dtype=torch.int64))
    layers: Any = decoder.cache.layers
    return _bytes([table for layer in layers for table in (layer.keys, layer.values)])
