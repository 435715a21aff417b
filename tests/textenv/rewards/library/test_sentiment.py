from __future__ import annotations

import pytest

from textenv.rewards import resolve_reward, score_episodes


def test_compound_scores_of_vader(make_episodes):
    episodes = make_episodes("This is good.", "This is not good.", "It is a table.", "")
    scores = score_episodes(resolve_reward("sentiment"), episodes)
    # The lexicon rates "good" 1.9, and negation scales it by -0.74: x / sqrt(x * x + 15).
    assert scores == pytest.approx([0.4404, -0.3412, 0.0, 0.0], abs=1e-4)


def test_the_prompt_is_not_scored(make_episodes):
    episodes = make_episodes("It is a table.", prompt="This is horrible, terrible and sad: ")
    assert score_episodes(resolve_reward("sentiment"), episodes) == [0.0]
