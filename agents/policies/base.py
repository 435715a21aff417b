"""The contract of a policy: every member that agents, environments and checkpoints use.

Write a `torch.nn.Module` that keeps it, and hand the class to any agent:

    class MyPolicy(nn.Module, Policy):
        def __init__(self, observation_space, action_space, *, device="cpu"): ...

`Policy` comes second, so that what it has a default for is there, and what it has none for is asked
for when an agent is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from textenv.shaping import ActionRecord


class ActionDistribution(Protocol):
    """The distributions of a batch's counted steps (`agents.policies.distributions`)."""

    def kl(self, other: Any) -> Tensor:
        """KL(self‖other) ``[B, T]``, nats, over all actions; gradients flow to both."""

    def detach(self) -> Any:
        """This distribution as it is now, without gradient, whatever becomes of the policy."""


@dataclass
class Evaluation:
    """A batch of steps as the current weights see them, with gradients; each ``[B, T]``.

    Attributes:
        log_probs: log π(a_t|s_t), nats.
        values: V(s_t), units of the return.
        entropy: of π(·|s_t), nats; None unless it was asked for.
        distribution: the distributions themselves, for a KL over all actions.
    """

    log_probs: Tensor
    values: Tensor
    entropy: Tensor | None
    distribution: ActionDistribution


class Policy(Protocol):
    """What a policy is: π(a|s), V(s), and how both are saved.

    It is made as ``PolicyClass(observation_space, action_space, device=..., **policy_kwargs)``,
    with the spaces of one row of the environment, and with ``seed=`` where its constructor has it.

    Attributes:
        sequential: whether each observation of an episode is a prefix of the next, so that a whole
            episode is evaluated in one pass. Observations are then dictionaries.
        reduced_precision: whether `act` and `evaluate` differ by rounding; agents then take the old
            log-probabilities from `evaluate`.
        device: where the weights are.
        generator: draws the actions; its state is saved.
        action_record: of the latest act, for KL shaping; None where the policy never writes text.
    """

    sequential: ClassVar[bool] = False
    device: torch.device
    generator: torch.Generator
    action_record: ActionRecord | None = None

    @property
    def reduced_precision(self) -> bool:
        return False

    # Of every nn.Module.
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    # --- acting and learning ----------------------------------------------------------------

    def act(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Choose an action for each row, without gradient.

        Args:
            observation: of B rows.
            state: what the last call returned; None begins afresh, as after an update.
            episode_start: ``[B]`` bool, rows that begin an episode. None is possible.
            deterministic: the likeliest action instead of a drawn one.

        Returns:
            actions ``[B, ...]``, log_probs ``[B]`` (nats), values ``[B]``, state.
        """

    def evaluate(
        self, observations: Any, actions: Tensor, mask: Tensor, entropy: bool = False
    ) -> Evaluation:
        """The steps that ``mask`` ``[B, T]`` counts, with gradient. It gives what `act` gave.

        Args:
            observations: ``[B, T, ...]``, or what `rollout_observations` made.
            actions: ``[B, T, ...]``.
            mask: ``[B, T]`` bool.
            entropy: whether the entropy is wanted.
        """

    def evaluate_values(self, observations: Any, mask: Tensor) -> Tensor:
        """V ``[B, T]`` of the counted steps, with gradients to `critic_parameters` at least."""

    def predict_values(self, observation: Any) -> Tensor:
        """V(s) ``[B]`` without gradient, and without touching any state."""

    def actor_parameters(self) -> list[nn.Parameter]:
        """Those that π depends on and that learn."""

    def critic_parameters(self) -> list[nn.Parameter]:
        """Those that only V depends on."""

    def seed(self, seed: int) -> None:
        """Seed the drawing of actions."""
        self.generator.manual_seed(seed)

    def is_batched(self, observation: Any) -> bool:
        """Whether an observation is of many rows, or of one."""

    def rollout_observations(self, first: Any, last: Any) -> dict[str, Tensor]:
        """For a sequential policy: what `evaluate` reads of episodes, of which these are the first
        and the last observations."""
        raise NotImplementedError(f"{type(self).__name__} is sequential: it has to say this.")

    # --- saving, and being made -------------------------------------------------------------

    def save(self, folder: Path, tokenizer: Any = None) -> None:
        """Write the weights, and the tokenizer of a text environment where it belongs to them."""
        save_file(self.state_dict(), folder / "policy.safetensors")

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
        self.load_state_dict(load_file(folder / "policy.safetensors"))

    @staticmethod
    def kwargs_for(folder: Path) -> dict[str, Any]:
        """The constructor's arguments that find a saved policy's weights again."""
        return {}

    @staticmethod
    def env_kwargs(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a text environment that is made for this policy: its tokenizer."""
        return {}


TO_WRITE = (
    "act", "evaluate", "evaluate_values", "predict_values", "actor_parameters", "critic_parameters",
    "is_batched",
)  # fmt: skip
TO_HAVE = (
    "generator", "device", "sequential", "reduced_precision", "action_record", "parameters",
    "state_dict", "seed", "save", "load", "kwargs_for", "env_kwargs",
)  # fmt: skip


def check_policy(policy: Any) -> None:
    """Refuse a policy that does not keep the contract, with the names of what it lacks.

    Raises:
        TypeError: it lacks something, or has not written a member that has no default.
    """
    cls = type(policy)
    unwritten = [
        name for name in TO_WRITE if getattr(cls, name, None) in (None, vars(Policy)[name])
    ]
    lacking = unwritten + [name for name in TO_HAVE if not hasattr(policy, name)]
    if lacking:
        raise TypeError(
            f"{cls.__name__} is no policy: it lacks {', '.join(lacking)}. "
            "agents.policies.base.Policy says what each of these does."
        )
