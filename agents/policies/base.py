"""The contract of a policy: every member that agents, environments and checkpoints use.

Write a `torch.nn.Module` that implements it, and pass the class to any agent:

    class MyPolicy(nn.Module, Policy):
        def __init__(self, observation_space, action_space, *, device="cpu"): ...

`Policy` comes second, so that its defaults are inherited. A missing member without a default raises
an error when an agent is made.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from textenv.kl.shaping import ActionRecord


class ActionDistribution(Protocol):
    """The distributions of a batch's counted steps (`agents.policies.distributions`)."""

    def kl(self, other: Any) -> Tensor:
        """KL(self‖other) ``[B, T]``, nats, over all actions; gradients flow to both."""

    def detach(self) -> Any:
        """A copy without gradient, which later changes of the policy do not affect."""


class Steps(Protocol):
    """The steps to evaluate: a batch, or a whole rollout."""

    observations: Any  # [B, T, ...], or what `Policy.rollout_observations` made
    actions: Tensor  # [B, T, ...]
    mask: Tensor  # [B, T] bool, the steps that count


@dataclass
class Evaluation:
    """A batch of steps evaluated with the current weights, with gradients; each ``[B, T]``."""

    log_probs: Tensor  # log π(a_t|s_t), nats
    values: Tensor  # V(s_t), units of the return
    entropy: Tensor | None  # of π(·|s_t), nats; None unless it is requested
    distribution: ActionDistribution  # for a KL over all actions


class Policy(Protocol):
    """What a policy is: π(a|s), V(s), and how both are saved.

    It is made as ``PolicyClass(observation_space, action_space, device=..., **policy_kwargs)``,
    with the spaces of one row of the environment, and with ``seed=`` if its constructor has it.

    Attributes:
        sequential: whether each observation of an episode is a prefix of the next, so that a whole
            episode is evaluated in one pass. Observations are then dictionaries.
        reduced_precision: whether `act` and `evaluate` differ by rounding; agents then take the old
            log-probabilities from `evaluate`.
        device: where the weights are.
        generator: draws the actions; its state is saved.
        action_record: of the latest act, for KL shaping; None if the policy generates no text.
    """

    sequential: ClassVar[bool] = False
    device: torch.device
    generator: torch.Generator
    action_record: ActionRecord | None = None

    @property
    def reduced_precision(self) -> bool:
        return False

    @property
    def sharded(self) -> bool:
        """Whether processes share the weights that learn, each a part (`shard`)."""
        return False

    @property
    def shardable(self) -> bool:
        """Whether `shard` is possible."""
        return False

    def shard(self) -> None:
        """Keep only a part of the weights in each of several processes, which all call it."""
        raise ValueError(f"shard='full' is for language models, not for {type(self).__name__}.")

    def gather_weights(self) -> None:
        """After the weights have changed: renew what a sharded policy acts with and saves. All
        processes call it."""

    # Members of every nn.Module.
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    # --- acting and learning ----------------------------------------------------------------

    @abstractmethod
    def act(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Choose an action for each row, without gradient.

        Args:
            observation: the observation of B rows.
            state: what the last call returned; None starts without one, as after an update.
            episode_start: ``[B]`` bool, rows that begin an episode. It may be None.
            deterministic: choose the most likely action instead of a random one.

        Returns:
            actions ``[B, ...]``, log_probs ``[B]`` (nats), values ``[B]``, state.
        """

    @abstractmethod
    def evaluate(self, batch: Steps, entropy: bool = False) -> Evaluation:
        """Evaluate the counted steps of a batch, with gradient. The results match `act`."""

    @abstractmethod
    def evaluate_values(self, batch: Steps) -> Tensor:
        """V ``[B, T]`` of the counted steps, with gradients to `critic_parameters` at least."""

    def values_after(self, batch: Steps) -> Tensor:
        """V ``[B, T, K]`` of the states that each of the actions ``[B, T, K]`` of the counted steps
        leads to, without gradient, where a policy knows them (`agents.algorithms.lookahead`)."""
        raise NotImplementedError(
            f"{type(self).__name__} does not know the state after an action: use a language model."
        )

    @abstractmethod
    def predict_values(self, observation: Any) -> Tensor:
        """V(s) ``[B]`` without gradient, and without changing any state."""

    @abstractmethod
    def actor_parameters(self) -> list[nn.Parameter]:
        """The parameters that π depends on and that learn."""

    @abstractmethod
    def critic_parameters(self) -> list[nn.Parameter]:
        """The parameters that only V depends on."""

    def seed(self, seed: int) -> None:
        """Seed the drawing of actions."""
        self.generator.manual_seed(seed)

    @abstractmethod
    def is_batched(self, observation: Any) -> bool:
        """Whether an observation has many rows and is not a single one."""

    def rollout_observations(self, first: Any, last: Any) -> dict[str, Tensor]:
        """For a sequential policy: the input of `evaluate` for episodes, made from their first and
        their last observations."""
        raise NotImplementedError(
            f"{type(self).__name__} is sequential: implement rollout_observations."
        )

    # --- saving, and being made -------------------------------------------------------------

    def save(self, folder: Path, tokenizer: Any = None) -> None:
        """Write the weights, and the tokenizer of a text environment if the policy needs it."""
        save_file(self.state_dict(), folder / "policy.safetensors")

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
        self.load_state_dict(load_file(folder / "policy.safetensors"))

    @staticmethod
    def kwargs_for(folder: Path) -> dict[str, Any]:
        """The constructor's arguments that load a saved policy's weights."""
        return {}

    @staticmethod
    def env_kwargs(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a text environment that is made for this policy: its tokenizer."""
        return {}


def check_policy(policy: Any) -> None:
    """Raise a TypeError with the names of missing members if a policy breaks the contract.

    ``policy``: a class or, with its attributes, an object of it.
    """
    cls = policy if isinstance(policy, type) else type(policy)
    without_default: frozenset[str] = Policy.__abstractmethods__
    lacking = {
        name for name in without_default if getattr(cls, name, None) in (None, vars(Policy)[name])
    }
    if cls is not policy:
        members = {*Policy.__annotations__, *(name for name in vars(Policy) if name[0] != "_")}
        lacking |= {name for name in members if not hasattr(policy, name)}
    if lacking:
        raise TypeError(
            f"{cls.__name__} is no policy: it lacks {', '.join(sorted(lacking))}. "
            "agents.policies.base.Policy says what each of these does."
        )
