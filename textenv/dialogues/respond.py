"""What an environment replies at the end of a turn: the forms of ``respond``, and their results.

    def hint(episode):                                  # the dialogue so far
        guess = episode.turns[-1].text
        if guess == episode.data["secret"]:
            return None                                 # the episode ends
        return ">" if guess < episode.data["secret"] else "<"

A reply is a text, None for the end, or a `Reply`. ``respond`` is one of

- a function of one dialogue, as here;
- a function of a batch of them, whose parameter is named ``episodes``: it is called once a step
  with a tuple of the dialogues whose turn has ended, and returns as many replies;
- ``"module:function"``, or ``"module:Class"``;
- a class, of which each row has an object of its own, for tools with a state: ``reset(episode)``
  begins an episode, ``obj(episode)`` replies. A parameter ``seed`` of ``reset`` gets a number for
  whatever is random in the environment; the members of a group get the same.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

from textenv.arguments import brief
from textenv.episode import Episode
from textenv.rewards.check import RewardError, name_of
from textenv.rewards.limits import within_time
from textenv.rewards.names import import_object


class RespondError(RewardError):
    """``respond`` raised an error, or its result is no reply."""


@dataclass(frozen=True)
class Reply:
    """What the environment answers to a turn.

    Attributes:
        text: what the policy reads next; nothing is read if the episode ends.
        reward: of the turn, paid at its last token, in units of the score.
        end: whether the episode ends with the turn.
    """

    text: str = ""
    reward: float = 0.0
    end: bool = False


@dataclass(frozen=True)
class Responder:
    """``respond`` with the name that errors use.

    Attributes:
        source: a function, or a class, of which each row has an object.
        kind: "each" (a function of one dialogue), "batch" or "class".
    """

    name: str
    source: Any
    kind: str

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """Of tools that a chat template shows to the policy."""
        return list(getattr(self.source, "schemas", ()))

    @property
    def role(self) -> str:
        """Who replies, in a conversation."""
        return getattr(self.source, "role", "user")

    def object_of_row(self) -> Any:
        """A new object for a row, where ``respond`` is a class; else None."""
        return self._called(str, self.source) if self.kind == "class" else None

    def begin(self, row: int, of_row: Any, episode: Episode, seed: int) -> None:
        """Begin an episode of a row, whose object is ``of_row``."""
        takes_seed = "seed" in inspect.signature(of_row.reset).parameters

        def where() -> str:
            return f" at the beginning of row {row}, with the prompt {brief(episode.prompt)}"

        self._called(where, of_row.reset, episode, **({"seed": seed} if takes_seed else {}))

    def ask(
        self,
        rows: Sequence[int],
        of_rows: Sequence[Any],
        episodes: Sequence[Episode],
        timeout: float | None = None,
    ) -> list[Reply]:
        """The replies to N dialogues of these rows, whose objects are ``of_rows``, in at most
        ``timeout`` seconds for all of them."""

        def where(place: int) -> str:
            episode = episodes[place]
            turn = brief(episode.turns[-1].text)
            return f" in row {rows[place]}, turn {len(episode.turns)}, {turn}"

        def work() -> Any:
            if self.kind == "batch":
                several = f" in {len(rows)} rows, the first" if len(rows) > 1 else ""
                return self._called(lambda: several + where(0), self.source, tuple(episodes))
            functions = of_rows if self.kind == "class" else [self.source] * len(rows)
            return [
                self._called(partial(where, place), function, episode)
                for place, (function, episode) in enumerate(zip(functions, episodes, strict=True))
            ]

        what = f"respond {self.name!r}"
        replies = within_time(work, timeout, what, episodes)
        if not isinstance(replies, list | tuple) or len(replies) != len(rows):
            raise RespondError(
                f"{what} answered {brief(replies)} to {len(rows)} dialogues: return a list with a "
                "reply for each of them, in their order."
            )
        return [self._checked(reply, partial(where, at)) for at, reply in enumerate(replies)]

    def _called(
        self, where: Callable[[], str], function: Callable, *given: Any, **keywords: Any
    ) -> Any:
        try:
            return function(*given, **keywords)
        except Exception as error:
            raise RespondError(
                f"respond {self.name!r} raised {type(error).__name__}: {error}{where()}."
            ) from error

    def _checked(self, reply: Any, where: Callable[[], str]) -> Reply:
        if reply is None:
            return Reply(end=True)
        if isinstance(reply, str):
            return Reply(reply)
        if not isinstance(reply, Reply) or not isinstance(reply.text, str):
            raise RespondError(
                f"respond {self.name!r} answered {brief(reply)}, a {type(reply).__name__},{where()}"
                ": return a text, None for the end, or textenv.Reply(text, reward, end)."
            )
        reward = reply.reward.item() if hasattr(reply.reward, "item") else reply.reward
        if not isinstance(reward, Real) or not math.isfinite(float(reward)):
            raise RespondError(
                f"respond {self.name!r} gave the reward {brief(reply.reward)}{where()}: a reward "
                "is a finite number."
            )
        return Reply(reply.text, float(reward), bool(reply.end))


def resolve_respond(source: Any) -> Responder:
    """The responder of each form that a user may give; a TypeError or a ValueError says what is
    wrong with anything else."""
    if isinstance(source, Responder):
        return source
    name = source if isinstance(source, str) else name_of(source)
    if isinstance(source, str):
        if ":" not in source:
            raise ValueError(
                f"respond={source!r} is unknown: give a function, a class, or 'module:function'."
            )
        source = import_object(source, "respond")
    if inspect.isclass(source):
        for member in ("reset", "__call__"):
            if not any(callable(vars(cls).get(member)) for cls in source.__mro__):
                raise TypeError(
                    f"respond={source.__name__} is a class without {member}: it needs "
                    "reset(self, episode) and __call__(self, episode)."
                )
        needed = [
            each.name
            for each in inspect.signature(source).parameters.values()
            if each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        if needed:
            raise TypeError(
                f"respond={source.__name__} is a class that needs {', '.join(needed)} to be made, "
                "but each row makes its object without arguments: give them defaults."
            )
        return Responder(source.__name__ if ":" not in name else name, source, "class")
    if not callable(source):
        raise TypeError(
            f"respond={brief(source)} is a {type(source).__name__}: give a function of an episode, "
            "a class, or 'module:function'."
        )
    if inspect.iscoroutinefunction(source):
        raise TypeError(
            f"respond {name!r} is asynchronous: wrap it in a function that calls asyncio.run."
        )
    try:
        signature = inspect.signature(source)
    except ValueError:  # a function in C does not show its parameters
        return Responder(name, source, "each")
    parameters = [
        each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD
    ]
    required = [
        each
        for each in parameters
        if each.default is each.empty and each.kind is not each.VAR_POSITIONAL
    ]
    if not parameters or len(required) > 1 or parameters[0].kind is parameters[0].KEYWORD_ONLY:
        raise TypeError(
            f"respond {name!r} has the parameters {signature}: it takes one, (episode), or "
            "(episodes) for all dialogues whose turn has ended."
        )
    return Responder(name, source, "batch" if parameters[0].name == "episodes" else "each")
