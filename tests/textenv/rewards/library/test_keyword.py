from __future__ import annotations

import pytest

from textenv.rewards import resolve_reward, score_episodes
from textenv.rewards.library.keyword_reward import keyword_reward


def test_the_score_is_the_fraction_of_keywords_found(make_episodes):
    episodes = make_episodes("The OCEAN is blue, so blue.", "An ocean.", "Land.", "")
    scores = score_episodes(keyword_reward("ocean", "Blue"), episodes)
    assert scores == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_only_whole_words_count(make_episodes):
    episodes = make_episodes("seaside", "overseas", "sea_salt", "(sea)", "sea-salt", "sea")
    assert score_episodes(keyword_reward("sea"), episodes).tolist() == [0, 0, 0, 1, 1, 1]


def test_keywords_may_hold_spaces_and_signs(make_episodes):
    episodes = make_episodes("I write C++ in the deep sea.")
    assert score_episodes(keyword_reward("c++", "deep sea", "c.+"), episodes) == [2 / 3]


def test_the_prompt_is_not_searched(make_episodes):
    assert score_episodes(keyword_reward("sea"), make_episodes("Land", prompt="The sea")) == [0.0]


def test_the_name_takes_keywords(make_episodes):
    episodes = make_episodes("The deep sea of 1984 and 007")
    assert score_episodes(resolve_reward("keyword(deep sea, 1984)"), episodes) == [1.0]
    assert score_episodes(resolve_reward("keyword( 007 , 7)"), episodes) == [0.5]


@pytest.mark.parametrize("source", ["keyword", "keyword()", "keyword(sea,)"])
def test_missing_and_blank_keywords_are_refused(source):
    with pytest.raises(ValueError, match=r"keywords=\[.*\] names no words .* 'keyword\(ocean"):
        resolve_reward(source)
