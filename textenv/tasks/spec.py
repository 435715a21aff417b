"""What a registered task consists of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from textenv.sharing import plain


@dataclass(frozen=True)
class TaskSpec:
    """The arguments of `textenv.TextGenEnv` that make a task, and prompts to judge it by.

    ``held_out`` are prompts of the same form as ``prompts``, none of which is among these. Pass
    them as ``prompts=`` to evaluate. ``kl_coef`` is a β that suits the task, units of the score per
    nat, for commands that train; None leaves it to them. ``planned`` names the function that finds
    the optimum of a game, where samples of the reference do not (`textenv.tasks.guess_number`).
    ``settings`` are options and hyper-parameters of runs that suit a model of a few million
    parameters in the task, where the presets do not.
    """

    id: str  # which ``gym.make`` takes
    description: str  # one sentence
    prompts: str | Sequence[Mapping[str, Any]]  # rows, or the name of a source of prompts
    held_out: Sequence[Mapping[str, Any]]
    reward: str
    max_new_tokens: int
    stop: tuple[str, ...] | None = None
    chat: bool = False
    legal_tokens: tuple[str, ...] | None = None
    respond: str | None = None
    max_turns: int | None = None
    max_turn_tokens: int | None = None
    max_reply_tokens: int | None = None
    kl_coef: float | None = None
    planned: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments of the environment, as data."""
        others = ("id", "description", "held_out", "kl_coef", "planned", "settings")
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: plain(value) for name, value in given.items() if name not in others and value}
