from __future__ import annotations

import pytest

from textenv.rewards import resolve_reward, score_episodes
from textenv.rewards.haiku import estimated_syllables, haiku_score, possible_syllables

FIVE, SEVEN, LAST = "An old silent pond", "a frog jumps into the pond", "splash! silence again."


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (f"{FIVE}\n{SEVEN}\n{LAST}", 1.0),
        (f"{FIVE} / {SEVEN} / {LAST}", 1.0),
        (f"\n{FIVE}\n\n{SEVEN}\r\n{LAST}\n", 1.0),
        (FIVE, 1 / 3),
        (f"{FIVE}\n{SEVEN}", 2 / 3),
        (f"{FIVE}\n{SEVEN}\n{LAST}\none more", 3 / 4),
        (f"An old pond sleeps\n{SEVEN}\n{LAST}", (0.8 + 1 + 1) / 3),  # 4 of 5
        (f"{SEVEN}\n{FIVE}\n{LAST}", (0.6 + 5 / 7 + 1) / 3),  # 7 of 5, 5 of 7
        (f"{FIVE} {FIVE} {FIVE}", 0.0),  # 15 of 5 would be negative
        ("...", 0.0),
        ("", 0.0),
    ],
)
def test_partial_credit(text, score):
    assert haiku_score(text) == pytest.approx(score)


def test_the_pronunciation_that_suits_the_line_counts():
    assert possible_syllables("fire") == {1, 2}
    assert possible_syllables("fire, fire!") == {2, 3, 4}
    assert haiku_score("my silent fire") == haiku_score("the cold silent fire") == 1 / 3


def test_apostrophes_belong_to_words_and_digits_count_for_nothing():
    assert possible_syllables("I don't; 'it’s' 1984") == {3}


@pytest.mark.parametrize(
    ("word", "syllables"),
    [("blorpe", 1), ("blorple", 2), ("zorkadee", 3), ("qxz", 1), ("the", 1), ("frobnicate", 3)],
)
def test_estimates_for_words_in_no_dictionary(word, syllables):
    assert estimated_syllables(word) == syllables


def test_a_word_in_no_dictionary_is_estimated():
    assert possible_syllables("blorple pond") == {3}


def test_the_name(make_episodes):
    episodes = make_episodes(f"{FIVE}\n{SEVEN}\n{LAST}", "Hello")
    assert score_episodes(resolve_reward("haiku"), episodes) == pytest.approx([1.0, 0.4 / 3])
