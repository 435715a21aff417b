"""Functions as tools: the policy calls them in JSON, and reads what they return.

    def add(a: int, b: int) -> int:
        '''Add two numbers.

        Args:
            a: The first one.
            b: The second one.
        '''
        return a + b

    gym.make("TextGen-v0", tokenizer=..., prompts=conversations, respond=tools([add]), reward=...)

Their schemas go into the chat template, which shows the policy how to call them:
``{"name": "add", "arguments": {"a": 1, "b": 2}}``, in whatever tags the template asks for. A turn
without a call ends the dialogue; a call that cannot be read, or that fails, gets a sentence that
says so.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from textenv.arguments import brief, first_line
from textenv.dialogues.respond import Reply
from textenv.episode import Episode

ARGUMENTS = ("arguments", "parameters")  # of a call, by the name that templates give them
Call = tuple[str, Mapping[str, Any]]  # the name of a tool, and its arguments


class Tools:
    """``respond`` for functions that keep no state: see `tools`."""

    role = "tool"  # of replies in a conversation

    def __init__(self, functions: Sequence[Callable]):
        self.functions = {function.__name__: function for function in functions}
        self.schemas = [schema(function) for function in functions]
        self.__name__ = f"tools({', '.join(self.functions)})"

    def __call__(self, episode: Episode) -> str | None:
        return answer(episode.turns[-1].text, self.functions)


def tools(functions: Sequence[Callable]) -> Tools:
    """What replies to calls of these functions.

    Args:
        functions: each with type hints and a docstring in Google's style, from which its schema is
            made.

    Raises:
        ValueError: a function has no hints or no description of an argument, or two have one name.
    """
    names = [function.__name__ for function in functions]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"tools have the names {names}: give at least one, each with its own name."
        )
    return Tools(functions)


def trl(environment: type) -> type:
    """A class that TRL's GRPOTrainer takes as ``environment_factory``, as ``respond``.

    Its ``reset`` gets the columns of the prompt's row, and its public methods are the tools. What
    ``get_reward`` returns after a turn, less what it returned before, is the reward of the turn, so
    that the rewards of an episode add up to it. A text that ``reset`` returns is refused, since the
    prompt has been read by then: put it into the prompts.
    """
    if not inspect.isclass(environment) or not callable(getattr(environment, "reset", None)):
        raise TypeError(f"trl takes a class with reset, not {brief(environment)}.")
    members = [
        name
        for name, _ in inspect.getmembers(environment, inspect.isfunction)
        if name not in ("reset", "get_reward") and not name.startswith("_")
    ]
    probe = environment()

    class Environment:
        role = "tool"
        schemas: list = [schema(getattr(probe, name)) for name in members]  # noqa: RUF012

        def __init__(self) -> None:
            self.environment: Any = environment()

        def reset(self, episode: Episode) -> None:
            row = {"prompt": episode.prompt, **episode.data}
            said = self.environment.reset(**row)
            if said:
                raise ValueError(
                    f"reset returned {brief(said)}, which would come after the prompt: put it into "
                    "the prompts, and return None"
                )
            self.paid = 0.0

        def __call__(self, episode: Episode) -> Reply:
            methods = {name: getattr(self.environment, name) for name in members}
            said = answer(episode.turns[-1].text, methods)
            reward, before = self.paid, self.paid
            if hasattr(self.environment, "get_reward"):
                reward = float(self.environment.get_reward())
            self.paid = reward
            return Reply(said or "", reward - before, end=said is None)

    Environment.__name__ = f"trl({environment.__name__})"
    return Environment


def answer(text: str, functions: Mapping[str, Callable]) -> str | None:
    """What the calls in a text return, one after another; None if there is no call."""
    if not any(f'"{key}"' in text for key in ("name", *ARGUMENTS)):
        return None
    found = calls(text)
    if not found:
        known = ", ".join(functions)
        return (
            'The call cannot be read: write {"name": ..., "arguments": {...}} in JSON, with one of '
            f"the names {known}."
        )
    return "\n".join(_returned(name, arguments, functions) for name, arguments in found)


def calls(text: str) -> list[Call]:
    """The calls in a text: JSON objects with a name and arguments, whatever is around them."""
    found, decoder, place = [], json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            given = [value[key] for key in ARGUMENTS if isinstance(value.get(key), dict)]
            if isinstance(value.get("name"), str) and given:
                found.append((value["name"], given[0]))
        place = text.find("{", end)
    return found


def _returned(name: str, arguments: Mapping[str, Any], functions: Mapping[str, Callable]) -> str:
    if name not in functions:
        return f"There is no tool {name!r}, only {', '.join(functions)}."
    try:
        inspect.signature(functions[name]).bind(**arguments)
    except TypeError as error:
        return f"{name} does not take these arguments: {error}."
    try:
        value = functions[name](**arguments)
    except Exception as error:  # of what a model has asked for, which may be anything
        return f"{name} failed: {first_line(error)}."
    return value if isinstance(value, str) else json.dumps(value, default=str)


def schema(function: Callable) -> dict[str, Any]:
    """The JSON schema of a function, as chat templates take it; a ValueError says what it lacks."""
    from textenv.lm.schemas import schema_of

    try:
        return schema_of(function)
    except Exception as error:  # transformers has several of its own
        raise ValueError(
            f"The tool {function.__name__!r} has no schema ({first_line(error)}): give each "
            "argument a type hint and a line under 'Args:' in its docstring."
        ) from error
