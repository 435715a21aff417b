"""How close a response's length is to a target."""

from collections.abc import Sequence
from functools import partial

from textenv.episode import Episode
from textenv.rewards.check import Reward


def length_reward(target: int = 20) -> Reward:
    """Close to 1 if the response has about `target` (at least 1) tokens, exactly 1 at `target`.

    With T the number of response tokens, the stop token included, the score is
    `min(T, target) / max(T, target)`. It is in [0, 1] and nowhere constant, so that a response
    of any length gains from a length closer to the target.
    """
    if not isinstance(target, int) or target < 1:
        raise ValueError(
            f"target={target!r} is not a positive whole number: give a number of tokens, "
            "as in 'length(20)'."
        )
    return partial(length, target=target)


def length(episodes: Sequence[Episode], target: int) -> list[float]:
    lengths = [len(episode.response_ids) for episode in episodes]
    return [min(tokens, target) / max(tokens, target) for tokens in lengths]
