"""The names of the rewards of this package.

To give a reward a name, write a file in `textenv.rewards.library` with a function that builds it,
and add a line to `NAMES`, or to `NAMES_WITH_COLUMNS` if it needs columns of the prompt's row.
"""

import difflib
import importlib
import inspect
import re
from typing import Any

from textenv.rewards.check import Reward

# The functions that build them are imported on first use: a dictionary or a lexicon takes time to
# load, and most users need only one.
NAMES = {
    "haiku": "textenv.rewards.library.haiku_reward:haiku_reward",
    "keyword": "textenv.rewards.library.keyword_reward:keyword_reward",
    "length": "textenv.rewards.library.length_reward:length_reward",
    "nothing": "textenv.rewards.library.nothing_reward:nothing_reward",
    "sentiment": "textenv.rewards.library.sentiment_reward:sentiment_reward",
}
# Those that compare a response with columns of its prompt's row, and score no other prompts.
NAMES_WITH_COLUMNS = {
    "countdown": "textenv.rewards.library.countdown_reward:countdown_reward",
    "last_number": "textenv.rewards.library.answers:last_number_reward",
    "last_word": "textenv.rewards.library.answers:last_word_reward",
    "reasoning": "textenv.rewards.library.reasoning_reward:reasoning_reward",
}
EVERY_NAME = NAMES | NAMES_WITH_COLUMNS


def parse_name(source: str) -> tuple[str, str] | None:
    """The name and the arguments of `"name"` or `"name(arguments)"`; None if it is neither."""
    call = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", source)
    return (call[1], call[2] or "") if call and call[1] in EVERY_NAME else None


def near_names(source: str) -> list[str]:
    """Names that are similar to ``source``, or ``source`` with the bracket that it lacks."""
    if parse_name(closed := f"{source})"):
        return [closed]
    return difflib.get_close_matches(source.split("(")[0].strip(), EVERY_NAME)


def build_named(source: str, name: str, argument_text: str) -> Reward:
    build = import_object(EVERY_NAME[name])
    pieces = [piece.strip() for piece in argument_text.split(",")] if argument_text.strip() else []
    arguments = [int(piece) if re.fullmatch(r"0|-?[1-9]\d*", piece) else piece for piece in pieces]
    try:
        inspect.signature(build).bind(*arguments)
    except TypeError as error:
        raise ValueError(
            f"reward={source!r} does not fit {name}{inspect.signature(build)} ({error}): "
            "check its arguments."
        ) from error
    return build(*arguments)


def import_object(source: str, what: str = "reward") -> Any:
    """The object that `"module:name"` refers to; ``what`` it is for, in messages."""
    module_name, _, attribute = source.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{what}={source!r} cannot be imported ({error}): use 'module:name' with a module that "
            "Python finds and a name in it."
        ) from error
