"""LastWord-v0 and FifteenWords-v0: which responses they pay."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.episode import Episode
from textenv.tasks import TASKS, fifteen_words


@pytest.mark.parametrize(
    ("words", "reason", "expected"),
    [(15, "stop", 1), (14, "stop", 0.8), (18, "stop", 0.4), (10, "stop", 0), (15, "length", 0)],
)
def test_fifteen_words_are_counted(words, reason, expected):
    ids = np.arange(words)
    episode = Episode("The film", " ".join(["one"] * words) + ".", ids, ids, reason)
    assert fifteen_words.score([episode]) == pytest.approx([expected])


def test_the_last_word_is_that_of_the_row():
    task = TASKS["LastWord-v0"]
    assert {row["answer"] for row in [*task.prompts, *task.held_out]} == {"story"}
