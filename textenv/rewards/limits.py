"""Time limit and repetition for rewards that ask a service or another process."""

import logging
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy as np

from textenv.episode import Episode
from textenv.rewards.check import Reward, RewardError, excerpt, name_of, score_in_parts
from textenv.shown import message
from textenv.waiting import TookTooLong, in_time

log = logging.getLogger(__name__)


def score_within_limits(
    reward: Reward, episodes: Sequence[Episode], timeout: float | None = None, retries: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`score_in_parts`, in limited time, and again up to ``retries`` times after an error.

    ``timeout``: seconds for the whole batch; None waits for ever. The reward then runs in a thread
    of its own, which cannot be ended: one that hangs is left behind. If the last attempt fails, or
    takes too long, that is a RewardError. No score is ever made up.
    """
    for attempt in range(retries + 1):
        try:
            return within_time(
                lambda: score_in_parts(reward, episodes), timeout, f"reward {name_of(reward)!r}",
                episodes,
            )  # fmt: skip
        except RewardError as error:
            if attempt == retries:
                raise
            log.warning("Attempt %d of %d: %s", attempt + 1, retries + 1, message(error))
    raise AssertionError("not reached: the last attempt returns or raises")


def within_time(
    work: Callable[[], Any], timeout: float | None, what: str, episodes: Sequence[Episode]
) -> Any:
    """What ``work`` returns. ``what`` it is, and the ``episodes`` that it was given, are named by
    the RewardError of one that takes longer than ``timeout`` seconds (None waits for ever)."""
    if timeout is None:
        return work()
    try:
        return in_time(work, timeout, what)
    except TookTooLong as late:
        frame = sys._current_frames().get(late.thread)
        raise RewardError(
            f"{what} has not answered within reward_timeout={timeout:g} s; "
            f"{_whereabouts(frame, episodes)}."
        ) from None


def _whereabouts(frame: FrameType | None, episodes: Sequence[Episode]) -> str:
    """The episode, and the line, that a thread is working on, as its stack shows them."""
    known = {id(episode): index for index, episode in enumerate(episodes)}
    line = f"it is in {frame.f_code.co_filename}, line {frame.f_lineno}" if frame else "it ended"
    while frame is not None:
        for value in frame.f_locals.values():
            if id(value) in known:
                index = known[id(value)]
                return f"it was given episode {index}, with {excerpt(episodes[index])}; {line}"
        frame = frame.f_back
    return f"it was given {len(episodes)} episodes, the first with {excerpt(episodes[0])}; {line}"
