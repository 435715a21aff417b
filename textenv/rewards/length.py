"""How near a response's length is to a wanted one."""

from __future__ import annotations

from collections.abc import Sequence

from textenv.episode import Episode
from textenv.rewards.check import Reward


def length_reward(target: int = 20) -> Reward:
    """Near 1 where the response has about `target` tokens, exactly 1 at `target`.

    With T the number of response tokens, the stop token included, the score is
    `min(T, target) / max(T, target)`. It lies in [0, 1] and is flat nowhere, so that a response
    of any length gains from a step towards the target.

    Args:
        target: The wanted number of tokens, at least 1.

    Raises:
        ValueError: If `target` is not a positive whole number.
    """
    if not isinstance(target, int) or target < 1:
        raise ValueError(
            f"target={target!r} is not a positive whole number: give a number of tokens, "
            "as in 'length(20)'."
        )

    def length(episodes: Sequence[Episode]) -> list[float]:
        lengths = [len(episode.response_ids) for episode in episodes]
        return [min(tokens, target) / max(tokens, target) for tokens in lengths]

    return length
