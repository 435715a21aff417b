"""The haiku reward: values worked out by hand, and texts that try to earn it without a haiku."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.episode import Episode
from textenv.rewards import RewardError, resolve_reward, score_episodes
from textenv.rewards.library.haiku_reward import haiku_score, speaks_of
from textenv.rewards.library.verse import verse_lines

FIVE, SEVEN, LAST = "An old silent pond", "a frog jumps into the pond", "splash! silence again."
HAIKU = f"{FIVE}\n{SEVEN}\n{LAST}"
ROBOT = "Cold metal fingers\ndream of electric mornings\nthe robot wakes up"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (HAIKU, 1.0),
        (f"{FIVE} / {SEVEN} / {LAST}", 1.0),
        (f"\n{FIVE}\n\n{SEVEN}\r\n{LAST}\n", 1.0),
        (f"*{FIVE}*\n*{SEVEN}*\n*{LAST}*", 1.0),
        (f"“{FIVE}\n{SEVEN}\n{LAST}”", 1.0),
        (FIVE, 1 / 3),
        (f"{FIVE}\n{SEVEN}", 2 / 3),
        (f"{HAIKU}\none more", 3 / 4),
        (f"{HAIKU}\nmore is here now\nand it costs as much", 3 / 5),
        (f"An old pond sleeps\n{SEVEN}\n{LAST}", (0.8 + 1 + 1) / 3),  # 4 of 5
        (f"{SEVEN}\n{FIVE}\n{LAST}", (0.6 + 5 / 7 + 1) / 3),  # 7 of 5, 5 of 7
        ("my silent fire", 1 / 3),  # "fire" has two syllables here,
        ("the cold silent fire", 1 / 3),  # and one here
        (f"{FIVE} and {SEVEN}, then {LAST}", 0.0),  # one line of 19 syllables
    ],
)
def test_the_form_has_partial_credit(text, score):
    assert haiku_score(text) == pytest.approx(score)


@pytest.mark.parametrize(
    ("topic", "related", "score"),
    [
        (None, (), 1.0),
        ("robots", (), 1.0),
        ("a Robot", (), 1.0),
        ("cats", (), 0.5),
        ("cats", ["finger"], 1.0),
        ("the", (), 0.5),  # no word of a topic
    ],
)
def test_half_of_the_score_needs_the_topic(topic, related, score):
    assert haiku_score(ROBOT, topic=topic, related=related) == score


def test_the_topic_counts_in_the_verse_only():
    text = f"Robots:\n{HAIKU}"
    assert haiku_score(text, topic="robots") == pytest.approx(3 / 4 * 1 / 2)


@pytest.mark.parametrize(
    ("word", "topic", "fits"),
    [
        ("robot", "robots", True),
        ("robotic", "robots", True),
        ("robot's", "robots", True),
        ("season", "the sea", False),
        ("start", "stars", False),
        ("cathedral", "cats", False),
        ("grass", "grass", True),
    ],
)
def test_a_topic_fits_a_word_with_another_ending(word, topic, fits):
    assert speaks_of([word], topic) == fits


def test_an_unfinished_text_has_half_the_score():
    assert haiku_score(ROBOT, topic="robots", finished=False) == 0.5


def test_repetition_costs():
    text = "Robots in the sky\nrobots in the morning sky\nrobots in the night"
    # 5, 7 and 5 syllables; 6 of 13 words are different, and 2/3 of them should be.
    assert haiku_score(text) == pytest.approx(6 / 13 * 3 / 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...\n---\n!?",
        "robots robots robots robots robots",
        "\n".join(["robots robots robots robots robots"] * 3),
        "Here's a starting point:",
        "Write a haiku about robots.",
        "Haiku: robots wake",
        "# Robots wake up now",
        "1. Cold metal fingers\n2. dream of electric mornings\n3. the robot wakes up",
        "古池や\n蛙飛びこむ\n水の音",
        "роботы спят\nв тишине",
        "b c d f g\nb c d f g h j\nk l m n p",
    ],
)
def test_what_is_no_verse_scores_nothing(text):
    assert haiku_score(text, topic="robots") == 0


def test_the_preamble_gains_nothing():
    # The lines after it count from the first one on, and the preamble costs a line.
    assert haiku_score(f"Here's a starting point:\n{ROBOT}", topic="robots") == 3 / 4
    assert haiku_score(f"Here is a haiku\n{ROBOT}", topic="robots") == 3 / 4
    two = "dream of electric mornings\nthe robot wakes up"  # 7 and 5 of 5 and 7 syllables
    assert haiku_score(f"Here's a starting point:\n{two}") == pytest.approx((0.6 + 5 / 7) / 3)


@pytest.mark.parametrize(
    "line",
    [
        "Sure, here you are",
        "Here's a starting point",
        "Title: The Robot",
        "First line: cold fingers",
        "I hope this helps you today",
        "I'd be happy to help you",
        "This haiku speaks of robots",
        "Five, seven and 5",
        "**Robots:**",
        "Let me know what you think now",
    ],
)
def test_a_line_around_a_verse_is_none(line):
    assert verse_lines([line, FIVE]) == [FIVE]


@pytest.mark.parametrize(
    "line", ["I am happy now", "robots: cold and still", "still, still waters run", "Sure as rain"]
)
def test_a_line_that_looks_like_one_is_verse(line):
    assert verse_lines([line]) == [line]


def test_repeated_lines_and_copies_of_the_prompt_are_none():
    assert verse_lines([FIVE, FIVE.upper(), LAST]) == [FIVE, LAST]
    assert verse_lines([FIVE, "the pond"], prompt=f"Begin with: {FIVE}, the pond.") == ["the pond"]


def episode(response: str, finish_reason: str = "stop", **data) -> Episode:
    return Episode("Write: ", response, np.arange(2), np.arange(3), finish_reason, data)


def test_the_name_reads_the_row_and_the_ending():
    episodes = [
        episode(ROBOT),
        episode(ROBOT, topic="robots"),
        episode(ROBOT, topic="cats"),
        episode(ROBOT, topic="cats", related=["metal"]),
        episode(ROBOT, "length", topic="cats"),
        episode("Hello"),  # 2 of 5 syllables
    ]
    scores = score_episodes(resolve_reward("haiku"), episodes)
    assert scores == pytest.approx([1.0, 1.0, 0.5, 1.0, 0.25, 0.4 / 3])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"topic": 3}, "the column topic holds 3: it must be a text"),
        ({"topic": " "}, "the column topic holds ' ': it must be a text"),
        ({"topic": "robots", "related": "metal"}, "the column related holds 'metal': it must be"),
    ],
)
def test_columns_of_another_kind_are_refused(data, message):
    with pytest.raises(RewardError, match=message):
        score_episodes(resolve_reward("haiku"), [episode(ROBOT, **data)])
