from __future__ import annotations

import pytest

from textenv.rewards import resolve_reward, score_episodes
from textenv.rewards.library.length_reward import length_reward


def test_the_score_is_the_ratio_of_the_shorter_to_the_longer(make_episodes):
    # With the stop token: 1, 4 and 8 tokens.
    episodes = make_episodes("", "a b c", "a b c d e f g")
    assert score_episodes(length_reward(4), episodes) == pytest.approx([0.25, 1.0, 0.5])


def test_the_name_takes_a_target_and_has_a_default(make_episodes):
    episodes = make_episodes("a b c d")
    assert score_episodes(resolve_reward("length(10)"), episodes) == [0.5]
    assert score_episodes(resolve_reward("length"), episodes) == [0.25]


@pytest.mark.parametrize("target", [0, -3, 2.5, "long"])
def test_a_target_that_is_no_positive_whole_number_is_refused(target):
    with pytest.raises(ValueError, match=rf"target={target!r} is not a positive whole number"):
        length_reward(target)
