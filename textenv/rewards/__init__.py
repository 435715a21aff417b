"""Rewards: functions that score finished episodes.

A reward takes all the episodes of a batch and returns one number for each, in their order:

    def no_shouting(episodes):
        return [-float(episode.response.isupper()) for episode in episodes]

Pass such a function to an environment as it is. To give a reward a name of its own, write a file
in this folder with a function that builds it, and add a line to `NAMES`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from textenv.episode import Episode

Reward = Callable[[Sequence[Episode]], Sequence[float]]

# The names that a reward can be asked for by, and the functions that build them. They are imported
# on first use, so that nobody waits for a dictionary or a lexicon that they don't need.
NAMES = {
    "haiku": "textenv.rewards.haiku:haiku_reward",
    "keyword": "textenv.rewards.keyword:keyword_reward",
    "length": "textenv.rewards.length:length_reward",
    "sentiment": "textenv.rewards.sentiment:sentiment_reward",
}


class RewardError(RuntimeError):
    """A reward raised, or its answer is not one finite number for each episode."""


@dataclass(frozen=True)
class NamedReward:
    """A reward with the name that errors and logs call it by."""

    name: str
    function: Reward

    def __call__(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return self.function(episodes)


def score_episodes(reward: Reward, episodes: Sequence[Episode]) -> np.ndarray:
    """Call a reward once with the whole batch, and check its answer.

    Args:
        reward: Any batch reward; `resolve_reward` makes one of the other forms.
        episodes: N finished episodes. Without any, the reward is not called.

    Returns:
        The scores, float64 `[N]`. The reward may answer with a list, a tuple, an array or a
        tensor on any device, of booleans, integers or floats.

    Raises:
        RewardError: If the reward raises (the original is the cause), or if its answer is not N
            finite real numbers.
    """
    if len(episodes) == 0:
        return np.zeros(0)
    name = _name_of(reward)
    try:
        answer = reward(episodes)
    except RewardError:
        raise  # It says already which reward failed, and where.
    except Exception as error:
        raise RewardError(
            f"reward {name!r} raised {type(error).__name__}: {error}; it was given "
            f"{len(episodes)} episodes, the first with {_excerpt(episodes[0])}."
        ) from error
    return np.array(_checked_scores(name, answer, episodes))


def _checked_scores(name: str, answer: Any, episodes: Sequence[Episode]) -> list[float]:
    wanted = f"return {len(episodes)} numbers, one for each episode in its order"
    if hasattr(answer, "tolist"):  # A numpy array or a torch tensor, of any dtype, on any device.
        if len(answer.shape) != 1:
            raise RewardError(
                f"reward {name!r} answered with the shape {tuple(answer.shape)}: {wanted}."
            )
        answer = answer.tolist()
    if not isinstance(answer, Sequence) or isinstance(answer, (str, bytes)):
        raise RewardError(
            f"reward {name!r} answered with {_short(repr(answer))}, "
            f"a {type(answer).__name__}: {wanted}."
        )
    if len(answer) != len(episodes):
        raise RewardError(
            f"reward {name!r} answered with {len(answer)} scores for {len(episodes)} episodes: "
            f"{wanted}."
        )
    scores = []
    for index, (value, episode) in enumerate(zip(answer, episodes, strict=True)):
        score = _as_finite_float(value)
        if score is None:
            raise RewardError(
                f"reward {name!r} scored episode {index} with {_short(repr(value))}, which is not "
                f"a finite real number; the episode has {_excerpt(episode)}."
            )
        scores.append(score)
    return scores


def _as_finite_float(value: Any) -> float | None:
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # A number of numpy's, or a tensor that holds a single one.
    if not isinstance(value, Real):
        return None
    try:
        score = float(value)
    except OverflowError:  # An integer too large for a float.
        return None
    return score if math.isfinite(score) else None


def resolve_reward(source: Any, device: Any = None) -> NamedReward:
    """Make a reward of whatever a user calls one.

    Args:
        source: One of

            - a callable `(episodes) -> scores`: it has one required positional parameter;
            - a callable `(prompt: str, response: str) -> score`: it has two;
            - a name: `"haiku"`, `"sentiment"`, `"length"`, `"length(20)"`,
              `"keyword(ocean, blue)"`. The arguments are separated by commas; whole numbers
              become integers, all else is text without quotes;
            - `"module:function"`, where the function is such a callable;
            - a folder or a hub id `"owner/model"` of a sequence-classification model;
            - a transformers sequence-classification model, or a text-classification pipeline;
            - a mapping `{reward: weight}`, or a list of pairs `(reward, weight)`, for the
              weighted sum of rewards in any of these forms.
        device: Where a model that is loaded here goes; None leaves it on the CPU. A live model
            stays where it is.

    Returns:
        A batch reward with a name.

    Raises:
        ValueError: If a string names no reward, an argument doesn't fit, or a model cannot be
            loaded.
        TypeError: If `source` is none of the above.
    """
    if isinstance(source, NamedReward):
        return source
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        return _from_string(source, device)
    if isinstance(source, Mapping):
        return _weighted_sum(list(source.items()), device)
    if isinstance(source, (list, tuple)):
        return _weighted_sum(source, device)
    if _is_pipeline(source) or _is_classifier(source):
        return _from_live_model(source)
    if callable(source):
        return _from_callable(source, _name_of(source))
    raise TypeError(
        f"reward={source!r} is a {type(source).__name__}: pass a callable, a name, a "
        "sequence-classification model, or a mapping of rewards to weights."
    )


def _from_string(source: str, device: Any) -> NamedReward:
    call = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", source)
    if call and call[1] in NAMES:
        return NamedReward(source.strip(), _build_named(source, call[1], call[2] or ""))
    if os.path.isdir(source) or re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        from textenv.lm.classifier import load_classifier
        from textenv.rewards.classifier import ClassifierReward

        return NamedReward(source, ClassifierReward(*load_classifier(source, device)))
    if ":" in source:
        return _from_callable(_import(source), source)
    near = difflib.get_close_matches(call[1] if call else source, NAMES)
    raise ValueError(
        f"reward={source!r} is unknown: "
        + (f"did you mean {' or '.join(map(repr, near))}? " if near else "")
        + f"Use one of {', '.join(NAMES)}, 'module:function', a model's folder, or its hub id "
        "'owner/model'."
    )


def _build_named(source: str, name: str, argument_text: str) -> Reward:
    build = _import(NAMES[name])
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


def _import(source: str) -> Any:
    """The object that `"module:name"` stands for."""
    module_name, _, attribute = source.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"reward={source!r} cannot be imported ({error}): use 'module:function' with a module "
            "that Python finds and a function in it."
        ) from error


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


# Models and pipelines are callable too, so they are told apart before callables are, and by what
# they look like, so that transformers need not be imported to do it.
def _is_classifier(source: Any) -> bool:
    return type(source).__name__.endswith("ForSequenceClassification")


def _is_pipeline(source: Any) -> bool:
    return all(hasattr(source, attribute) for attribute in ("task", "model", "tokenizer"))


def _from_live_model(source: Any) -> NamedReward:
    from textenv.lm.classifier import load_classifier_tokenizer
    from textenv.rewards.classifier import ClassifierReward

    if not _is_pipeline(source):
        reward = ClassifierReward(source, load_classifier_tokenizer(source))
    elif _is_classifier(source.model):
        reward = ClassifierReward(source.model, source.tokenizer)
    else:
        raise ValueError(
            f"reward is a pipeline for {source.task!r}: pass one for 'text-classification'."
        )
    return NamedReward(reward.name, reward)


def _from_callable(function: Any, name: str) -> NamedReward:
    mend = "a reward takes (episodes), or (prompt, response), and nothing else that is required"
    if inspect.isclass(function):
        raise TypeError(f"reward {name!r} is a class: pass an instance of it.")
    if not callable(function):
        raise TypeError(f"reward {name!r} is a {type(function).__name__}, not callable: {mend}.")
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise TypeError(
            f"reward {name!r} does not show its parameters: "
            "wrap it, as in `lambda prompt, response: function(prompt, response)`."
        ) from error
    required = [
        parameter.kind
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if inspect.Parameter.KEYWORD_ONLY not in required:
        if len(required) == 1:
            return NamedReward(name, function)
        if len(required) == 2:
            return NamedReward(name, _one_by_one(function, name))
    raise TypeError(f"reward {name!r} has the parameters {signature}: {mend}.")


def _one_by_one(function: Callable[[str, str], float], name: str) -> Reward:
    """A batch reward of a function that scores one prompt and response."""

    def score_each(episodes: Sequence[Episode]) -> list[float]:
        scores = []
        for index, episode in enumerate(episodes):
            try:
                scores.append(function(episode.prompt, episode.response))
            except Exception as error:
                raise RewardError(
                    f"reward {name!r} raised {type(error).__name__}: {error}; it was given "
                    f"episode {index}, with {_excerpt(episode)}."
                ) from error
        return scores

    return score_each


def _name_of(reward: Any) -> str:
    """A reward's `name` or `__name__`, else that of the function it wraps, else its class's."""
    for attribute in ("name", "__name__"):
        if isinstance(getattr(reward, attribute, None), str):
            return getattr(reward, attribute)
    if hasattr(reward, "func"):  # functools.partial
        return _name_of(reward.func)
    return type(reward).__name__


def _excerpt(episode: Episode) -> str:
    return f"prompt {_short(repr(episode.prompt))} and response {_short(repr(episode.response))}"


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
