"""Syllables of words and lines, by the dictionary and by estimates."""

from __future__ import annotations

import pytest

from textenv.rewards.library.syllables import estimated_syllables, possible_syllables, words_of


def test_every_pronunciation_is_possible():
    assert possible_syllables("fire") == {1, 2}
    assert possible_syllables("fire, fire!") == {2, 3, 4}


def test_apostrophes_belong_to_words_and_digits_count_for_nothing():
    assert possible_syllables("I don't; 'it’s' 1984") == {3}


def test_accents_are_removed():
    assert words_of("Café, NAÏVE") == ["cafe", "naive"]


@pytest.mark.parametrize(
    ("word", "syllables"),
    [("blorpe", 1), ("blorple", 2), ("zorkadee", 3), ("qxz", 1), ("the", 1), ("frobnicate", 3)],
)
def test_estimates_for_words_in_no_dictionary(word, syllables):
    assert estimated_syllables(word) == syllables


def test_a_word_in_no_dictionary_is_estimated():
    assert possible_syllables("blorple pond") == {3}
