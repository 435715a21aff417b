"""Turn each form of reward that a user may give into a function of a batch of episodes."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from textenv.rewards.check import NamedReward, name_of
from textenv.rewards.names import EVERY_NAME, build_named, import_object, near_names, parse_name
from textenv.rewards.signatures import from_callable


def resolve_reward(source: Any, device: Any = None) -> NamedReward:
    """Make a batch reward with a name from each form that a user may give.

    Args:
        source: One of

            - a callable `(episodes) -> scores`: it has one required positional parameter;
            - a callable of one episode, `(prompt, response) -> score`, in any order, which may have
              columns of the prompts' rows as well (`textenv.rewards.signatures`);
            - a callable of TRL, `(prompts, completions, **columns) -> scores`: it has a parameter
              named `completions` or `completion_ids` (`textenv.rewards.signatures`);
            - a name: `"haiku"`, `"sentiment"`, `"length"`, `"length(20)"`,
              `"keyword(ocean, blue)"`. The arguments are separated by commas; whole numbers
              become integers, everything else is text without quotes;
            - `"module:function"`, where the function is such a callable;
            - a folder or a hub id `"owner/model"` of a sequence-classification model;
            - a transformers sequence-classification model, or a text-classification pipeline;
            - a mapping `{reward: weight}`, or a list of pairs `(reward, weight)`, for the
              weighted sum of rewards in any of these forms.
        device: The device of a model that is loaded here; None means the CPU. A live model is
            not moved.

    Raises:
        ValueError: If a string names no reward, an argument doesn't fit, or a model cannot be
            loaded.
        TypeError: If `source` is none of the above.
    """
    if isinstance(source, NamedReward):
        return source
    if isinstance(source, os.PathLike):
        return _from_source(os.fspath(source), device)
    if isinstance(source, str):
        return _from_string(source, device)
    if isinstance(source, Mapping):
        return _weighted_sum(list(source.items()), device)
    if isinstance(source, (list, tuple)):
        return _weighted_sum(source, device)
    if _is_pipeline(source) or _is_classifier(source):
        return _from_live_model(source)
    if callable(source):
        return from_callable(source, name_of(source))
    raise TypeError(
        f"reward={source!r} is a {type(source).__name__}: pass a callable, a name, a "
        "sequence-classification model, or a mapping of rewards to weights."
    )


def names_code(source: Any) -> bool:
    """Whether resolving ``source`` would import code that it names, `"module:function"`."""
    if isinstance(source, Mapping):
        return any(map(names_code, source))
    if isinstance(source, list | tuple):
        return any(
            names_code(part[0]) for part in source if isinstance(part, list | tuple) and part
        )
    return isinstance(source, str) and parse_name(source) is None and ":" in source


def _from_string(source: str, device: Any) -> NamedReward:
    named = parse_name(source)
    if named is not None:  # also where a folder has this name: "./haiku" is the folder
        return NamedReward(source.strip(), build_named(source, *named))
    if os.path.isdir(source) or re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return _from_source(source, device)
    if ":" in source:
        return from_callable(import_object(source), source)
    near = near_names(source)
    raise ValueError(
        f"reward={source!r} is unknown: "
        + (f"did you mean {' or '.join(map(repr, near))}? " if near else "")
        + f"Use one of {', '.join(sorted(EVERY_NAME))}, 'module:function', a model's folder, or "
        "its hub id 'owner/model'."
    )


def _from_source(source: str, device: Any) -> NamedReward:
    from textenv.lm.classifier import load_classifier
    from textenv.rewards.classifier_reward import ClassifierReward

    return NamedReward(source, ClassifierReward(*load_classifier(source, device)))


def _weighted_sum(pairs: Sequence[Any], device: Any) -> NamedReward:
    from textenv.rewards.weighted_sum import WeightedSum

    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(
                f"reward has the part {pair!r}, which is not a pair: "
                "a list of rewards holds pairs (reward, weight)."
            )
    weighted_sum = WeightedSum([(resolve_reward(part, device), weight) for part, weight in pairs])
    return NamedReward(weighted_sum.name, weighted_sum)


# Models and pipelines are callable too, so they are recognised before other callables, and by their
# names and attributes, so that transformers need not be imported.
def _is_classifier(source: Any) -> bool:
    return type(source).__name__.endswith("ForSequenceClassification")


def _is_pipeline(source: Any) -> bool:
    return all(hasattr(source, attribute) for attribute in ("task", "model", "tokenizer"))


def _from_live_model(source: Any) -> NamedReward:
    from textenv.lm.classifier import load_classifier_tokenizer
    from textenv.rewards.classifier_reward import ClassifierReward

    if not _is_pipeline(source):
        reward = ClassifierReward(source, load_classifier_tokenizer(source))
    elif _is_classifier(source.model):
        reward = ClassifierReward(source.model, source.tokenizer)
    else:
        raise ValueError(
            f"reward is a pipeline for {source.task!r}: pass one for 'text-classification'."
        )
    return NamedReward(reward.name, reward)
