"""Call a reward and check its result: an invalid score is an error and never becomes 0.0."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from textenv.episode import Episode

Reward = Callable[[Sequence[Episode]], Any]  # a number for each episode, in their order


IN_ORDER = (
    " The episodes are a tuple, for scores have to be in their order: for another order take "
    "sorted(episodes) or list(episodes)."
)


class RewardError(RuntimeError):
    """A reward raised an error, or its result is not one finite number for each episode."""


@dataclass(frozen=True)
class NamedReward:
    """A reward with the name that errors and logs use."""

    name: str
    function: Reward
    check: Callable[[Mapping[str, Any]], None] | None = None  # of a row; see `check_row`

    def __call__(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return self.function(episodes)

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Raise a ValueError if the columns of a prompt's row are not those that the reward needs,
        as far as the reward says what it needs."""
        check = self.check or getattr(self.function, "check_row", None)
        if check is not None:
            try:
                check(row)
            except ValueError as error:
                raise ValueError(f"reward {self.name!r}: {error}") from error


def score_episodes(reward: Reward, episodes: Sequence[Episode]) -> np.ndarray:
    """Call a batch reward once with N finished episodes (not at all if N is 0), and check its
    result.

    The reward may return a list, a tuple, an array or a tensor on any device, of booleans, integers
    or floats. The scores are float64 `[N]`. If the reward raises an error (which is the cause), or
    its result is not N finite real numbers, that is a RewardError.
    """
    if len(episodes) == 0:
        return np.zeros(0)
    name = name_of(reward)
    try:
        # A tuple: a list that the reward has sorted would pay the wrong rows.
        answer = reward(tuple(episodes))
    except RewardError:
        raise  # It already says which reward failed, and where.
    except Exception as error:
        raise RewardError(
            f"reward {name!r} raised {type(error).__name__}: {error}; it was given "
            f"{len(episodes)} episodes, the first with {excerpt(episodes[0])}."
            + (IN_ORDER if "'tuple' object" in str(error) else "")
        ) from error
    return np.array(_checked_scores(name, answer, episodes))


def _checked_scores(name: str, answer: Any, episodes: Sequence[Episode]) -> list[float]:
    wanted = f"return {len(episodes)} numbers, one for each episode in its order"
    if hasattr(answer, "tolist"):  # A numpy array or a torch tensor, of any dtype, on any device.
        if len(answer.shape) != 1:
            raise RewardError(
                f"reward {name!r} answered with the shape {tuple(answer.shape)}: {wanted}."
            )
        try:
            answer = answer.tolist()
        except (RuntimeError, NotImplementedError) as error:  # a sparse tensor, or one without data
            raise RewardError(
                f"reward {name!r} answered with {type(answer).__name__} of {answer.layout} on "
                f"{answer.device}, whose numbers cannot be read: {wanted}."
            ) from error
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
                f"a finite real number; the episode has {excerpt(episode)}."
            )
        scores.append(score)
    return scores


def _as_finite_float(value: Any) -> float | None:
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # A numpy scalar, or a tensor with a single number.
    if not isinstance(value, Real):
        return None
    try:
        score = float(value)
    except OverflowError:  # An integer too large for a float.
        return None
    return score if math.isfinite(score) else None


def score_in_parts(
    reward: Reward, episodes: Sequence[Episode]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`score_episodes`, and for each part of a weighted sum its scores ``[N]`` by its name, without
    its weight; none for any other reward."""
    function: Any = reward.function if isinstance(reward, NamedReward) else reward
    if not hasattr(function, "score_parts"):
        return score_episodes(reward, episodes), {}
    parts = function.score_parts(episodes)
    # The sum is checked as well: finite parts may add up to more than a float can hold.
    scores = _checked_scores(name_of(reward), function.combine(parts), episodes)
    return np.array(scores), parts


def part_names(reward: Reward) -> tuple[str, ...]:
    """The names of the parts that `score_in_parts` tells apart; none for any other reward."""
    function: Any = reward.function if isinstance(reward, NamedReward) else reward
    return tuple(getattr(function, "part_names", ()))


def name_of(reward: Any) -> str:
    """A reward's `name` or `__name__`, else that of the function it wraps, else of its class."""
    for attribute in ("name", "__name__"):
        if isinstance(getattr(reward, attribute, None), str):
            return getattr(reward, attribute)
    if hasattr(reward, "func"):  # functools.partial
        return name_of(reward.func)
    return type(reward).__name__


def excerpt(episode: Episode) -> str:
    return f"prompt {_short(repr(episode.prompt))} and response {_short(repr(episode.response))}"


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
