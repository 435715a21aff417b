"""LastWord-v0, FifteenWords-v0 and NoisySentiment-v0: which responses they pay."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.episode import Episode
from textenv.rewards.library.sentiment_reward import sentiment_of
from textenv.tasks import TASKS, fifteen_words, noisy_sentiment


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


def judged(prompt, texts, data):
    ids = np.arange(3)
    return np.array(
        noisy_sentiment.score([Episode(prompt, each, ids, ids, "stop", data) for each in texts])
    )


def test_the_judge_of_held_out_rows_does_not_err():
    task, texts = TASKS["NoisySentiment-v0"], [" was great.", " was awful, and long."]
    (data,) = {row["error"] for row in task.held_out}
    assert judged("The film", texts, {"error": data}).tolist() == [*map(sentiment_of, texts)]


def test_errors_belong_to_texts_and_are_normal_ones():
    texts = [f" was seen in {number} rooms." for number in range(4000)]  # all of them neutral
    errors = judged("The film", texts, TASKS["NoisySentiment-v0"].prompts[0])
    assert (errors == judged("The film", texts, {"error": noisy_sentiment.ERROR})).all()
    assert errors.mean() == pytest.approx(0, abs=0.03)
    assert errors.std() == pytest.approx(noisy_sentiment.ERROR, rel=0.05)
    assert np.mean(np.abs(errors) < noisy_sentiment.ERROR) == pytest.approx(0.683, abs=0.03)
    # Neither texts that differ by little nor the same text after another prompt have similar ones.
    assert abs(np.corrcoef(errors[:-1], errors[1:])[0, 1]) < 0.06
    other = judged("This film", texts, TASKS["NoisySentiment-v0"].prompts[0])
    assert abs(np.corrcoef(errors, other)[0, 1]) < 0.06
