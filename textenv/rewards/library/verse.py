"""Which lines of a text are verse, and which only stand around it."""

import re
from collections import Counter
from collections.abc import Sequence

from textenv.rewards.library.syllables import words_of

# Signs of markdown and quotation marks around a line, which are not part of its words.
DECORATION = " \t*_`~>|\"'“”‘’«»()[]-–—•"
LABEL = re.compile(
    r"(?:title|line|topic|theme|answer|response|note|example|explanation|translation|output"
    r"|assistant|user|author|(?:first|second|third|last) line)\b[^:]{0,20}:",
    re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"here(?:['’]s| is| are) (?:a|an|another|one|some|the|my|your|what)\b"
    r"|(?:sure|certainly|absolutely|of course|okay|ok)(?:[,.!]|$)"
    r"|i(?:['’](?:d|ll|m)| would| will| am|) (?:be )?(?:happy|glad|love) to\b"
    r"|i(?:['’]m| am) sorry,? (?:but|i)\b|(?:i )?hope (?:this|that|you (?:like|enjoy))\b"
    r"|let me (?:know|try|think|help|write|give|share)\b|let['’]s (?:try|write|start|begin)\b"
    r"|the following\b|below (?:is|are)\b|as an ai\b",
    re.IGNORECASE,
)
# A text that names its own form speaks about itself.
ABOUT_THE_FORM = {
    "haiku", "haikus", "poem", "poems", "poetry", "syllable", "syllables", "stanza", "stanzas",
    "verse", "verses", "sonnet",
}  # fmt: skip
WORDS_OF_ONE_LETTER = {"a", "i", "o"}
COPIED_WORDS = 3  # a shorter part of the prompt may stand in a verse by chance


def split_lines(text: str) -> list[str]:
    """The lines that are not blank; "/" separates lines, too."""
    return [line.strip() for line in re.split(r"[\n\r/]", text) if line.strip()]


def verse_lines(lines: Sequence[str], prompt: str = "") -> list[str]:
    """The lines that are verse, in their order.

    A line is no verse if

    - it has no letters, a digit, or a letter outside the Latin alphabet, whose syllables cannot be
      counted;
    - it is a heading (it begins with "#"), ends in a colon, or begins with a label such as
      "Title:";
    - it is a preamble or a remark ("Here is a ...", "Sure, ...", "I hope this ..."), or names the
      form ("haiku", "poem", "syllables", ...);
    - it spells letters out (a single letter that is no word: "b c d");
    - one word fills it: the word stands in it three times, or is more than half of at least two
      words;
    - it has the same words as an earlier line of verse, or is a part of the prompt, of at least
      three words.
    """
    prompt_words = _spaced(words_of(prompt))
    verse: list[str] = []
    seen = set()
    for line in lines:
        words = words_of(line)
        key = _spaced(words)
        copied = len(words) >= COPIED_WORDS and key in prompt_words
        if not _stands_around(line) and _has_verse_words(words) and key not in seen and not copied:
            verse.append(line)
            seen.add(key)
    return verse


def _spaced(words: Sequence[str]) -> str:
    """The words with a space around each, so that parts of words are not found."""
    return f" {' '.join(words)} "


def _stands_around(line: str) -> bool:
    text = line.strip(DECORATION)
    return (
        line.lstrip().startswith("#")
        or text.endswith((":", "："))
        or any(character.isdigit() for character in text)
        or LABEL.match(text) is not None
        or PREAMBLE.match(text) is not None
    )


def _has_verse_words(words: Sequence[str]) -> bool:
    if not words or not all(word.isascii() for word in words):
        return False
    if any(len(word) == 1 and word not in WORDS_OF_ONE_LETTER for word in words):
        return False
    most = max(Counter(words).values())
    filled = most >= 3 or (len(words) >= 2 and most > len(words) / 2)
    return not filled and not ABOUT_THE_FORM.intersection(words)
