"""How close a response is to a finished haiku about its topic: lines of 5, 7 and 5 syllables."""

import re
from collections.abc import Sequence
from typing import Any

from textenv.episode import Episode
from textenv.rewards.check import Reward
from textenv.rewards.library.syllables import possible_syllables, pronunciations, words_of
from textenv.rewards.library.verse import split_lines, verse_lines

SYLLABLES = (5, 7, 5)
OFF_TOPIC = 0.5  # the factor of a verse that does not speak of its topic
UNFINISHED = 0.5  # the factor of a text that the token budget ended
VARIED = 2 / 3  # the share of different words from which on repetition costs nothing

ENDINGS = r"(?:'?s|es|ed|d|ing|ly|y|ic|er|ers)?"
NO_TOPIC = {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to"}


def haiku_reward() -> Reward:
    """The 5-7-5 form with partial credit, times factors for topic, repetition and ending.

    The score is in [0, 1]; 1 is a finished haiku about its topic:

        score = form · topic · variety · finish.

    The response is split into lines at line breaks and at "/"; blank lines are dropped. L is the
    number of all other lines. Only lines that are verse
    (`textenv.rewards.library.verse.verse_lines`) have syllables: preambles, headings, labels, lines
    with digits and copies have none.

    - form = Σ_i credit_i / max(3, L), over the first three lines of verse, where line i has n_i
      syllables, (s_1, s_2, s_3) = (5, 7, 5), and credit_i = max(0, 1 − |n_i − s_i| / s_i). So a
      missing line adds nothing, and any other line costs as much as a missing one.
    - topic = 1 if the verse has a word of the column ``topic`` of the prompt's row, or one of the
      words in the column ``related`` (a list), else 1/2. A word may have another ending: "robot"
      and "robotic" fit "robots". Without a column ``topic`` this factor is left out.
    - variety = min(1, 3/2 · d / n), where the lines of verse have n words, d of them different.
    - finish = 1 if the response stopped by itself, 1/2 if the token budget ended it.

    Syllables are those of the CMU Pronouncing Dictionary. If a word has several pronunciations
    ("fire" has one syllable or two), the one that fits the line best is used. Other words are
    counted by `textenv.rewards.library.syllables.estimated_syllables`. Grammar, season and beauty
    are not scored.
    """
    pronunciations()  # Takes half a second: do it here and not in the first episode.
    return haiku


def haiku(episodes: Sequence[Episode]) -> list[float]:
    return [
        haiku_score(
            episode.response,
            topic=_checked_topic(episode.data.get("topic")),
            related=_checked_related(episode.data.get("related", ())),
            prompt=episode.prompt,
            finished=episode.finish_reason != "length",
        )
        for episode in episodes
    ]


def haiku_score(
    text: str,
    *,
    topic: str | None = None,
    related: Sequence[str] = (),
    prompt: str = "",
    finished: bool = True,
) -> float:
    """The score of one text in [0, 1], by the formula of `haiku_reward`.

    Without a topic (None) that factor is left out; related words speak of the topic, too. Lines
    that are copied from the prompt are no verse. ``finished``: whether the text stopped by itself.
    """
    lines = split_lines(text)
    verse = verse_lines(lines, prompt)
    if not verse:
        return 0.0
    credits = [
        max(max(0.0, 1.0 - abs(count - wanted) / wanted) for count in possible_syllables(line))
        for line, wanted in zip(verse, SYLLABLES, strict=False)  # Lines may be too few or too many.
    ]
    score = sum(credits) / max(len(SYLLABLES), len(lines))
    words = [word for line in verse for word in words_of(line)]
    score *= min(1.0, len(set(words)) / len(words) / VARIED)
    if topic is not None and not speaks_of(words, topic, related):
        score *= OFF_TOPIC
    return score if finished else score * UNFINISHED


def speaks_of(words: Sequence[str], topic: str, related: Sequence[str] = ()) -> bool:
    """Whether one of ``words``, in lower case, is a word of the topic or a related single word,
    with any ending. Articles and prepositions in the topic are ignored."""
    wanted = [word for text in (topic, *related) for word in words_of(text)]
    # "es" is left, because not all words that end in it are plurals of words without it.
    stems = [re.escape(re.sub(r"(?<=..)(?<!s)s$", "", word)) for word in wanted]
    stems = [stem for stem, word in zip(stems, wanted, strict=True) if word not in NO_TOPIC]
    pattern = re.compile(rf"(?:{'|'.join(stems)}){ENDINGS}") if stems else None
    return pattern is not None and any(map(pattern.fullmatch, words))


def _checked_topic(topic: Any) -> str | None:
    if topic is not None and not (isinstance(topic, str) and words_of(topic)):
        raise ValueError(f"the column topic holds {topic!r}: it must be a text such as 'robots'.")
    return topic


def _checked_related(related: Any) -> Sequence[str]:
    if isinstance(related, list | tuple) and all(isinstance(word, str) for word in related):
        return related
    raise ValueError(f"the column related holds {related!r}: it must be a list of words.")
