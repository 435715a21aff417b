"""What a registered task consists of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textenv.sharing import plain


@dataclass(frozen=True)
class TaskSpec:
    """The arguments of `textenv.TextGenEnv` that make a task, and prompts to judge it by.

    ``held_out`` are prompts of the same form as ``prompts``, none of which is among these. Pass
    them as ``prompts=`` to evaluate. ``kl_coef`` is a β that suits the task, units of the score per
    nat, for commands that train; None leaves it to them.
    """

    id: str  # which ``gym.make`` takes
    description: str  # one sentence
    prompts: str | Sequence[Mapping[str, Any]]  # rows, or the name of a source of prompts
    held_out: Sequence[Mapping[str, Any]]
    reward: str
    max_new_tokens: int
    stop: tuple[str, ...] | None = None
    chat: bool = False
    kl_coef: float | None = None

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments of the environment, as data."""
        names = "prompts", "reward", "max_new_tokens", "stop", "chat"
        return {name: plain(getattr(self, name)) for name in names if getattr(self, name)}
