"""Rows and scores of reasoning-gym; most tests are skipped where it is not installed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from textenv import TextGenEnv
from textenv.episode import Episode
from textenv.rewards import RewardError, resolve_reward, score_episodes
from textenv.rewards.library.reasoning_reward import answer_in
from textenv.tasks import reasoning


@pytest.fixture
def package():
    return pytest.importorskip("reasoning_gym")


def score(row, response: str, finish_reason: str = "stop") -> float:
    episode = Episode("Ask: ", response, np.arange(2), np.arange(3), finish_reason, row)
    return score_episodes(resolve_reward("reasoning"), [episode])[0]


def test_rows_are_data_and_depend_on_the_seed(package):
    rows = reasoning.rows("chain_sum", size=5, seed=1, max_terms=3)
    assert len(rows) == 5 and set(rows[0]) == {"prompt", "dataset", "config", "entry"}
    assert (
        json.loads(json.dumps(rows))
        == rows
        == reasoning.rows("chain_sum", size=5, seed=1, max_terms=3)
    )
    assert rows != reasoning.rows("chain_sum", size=5, seed=2, max_terms=3)


def test_answers_are_scored_by_the_verifier(package):
    row = reasoning.rows("chain_sum", size=1, seed=0)[0]
    answer = row["entry"]["answer"]
    assert score(row, answer) == score(row, f"So it is {answer}.") == 1
    assert score(row, f"<answer>{answer}</answer> and 99") == 1
    assert score(row, f"<answer>no</answer> {answer}") == 0  # the tags count
    assert score(row, f"{answer} or {answer}9") == score(row, "zzz") == score(row, "") == 0
    assert score(row, answer, "length") == 0


def test_a_verifier_that_fails_scores_nothing(package):
    row = reasoning.rows("prime_factorization", size=1, seed=0)[0]
    assert score(row, "zzz") == 0 and score(row, row["entry"]["answer"]) == 1


def test_an_environment_reads_the_rows(package):
    rows = reasoning.rows("chain_sum", size=3, seed=0)
    env = TextGenEnv(prompts=rows, reward="reasoning", max_new_tokens=1)
    env.reset(seed=0)
    assert env.step(5)[-1]["score"] == 0


def test_wrong_arguments_are_refused(package):
    with pytest.raises(ValueError, match=r"cannot make the dataset 'nope' with size=3 and \{\}: "):
        reasoning.rows("nope", size=3)
    with pytest.raises(ValueError, match=r"cannot make the dataset 'chain_sum' .*'terms': 3"):
        reasoning.rows("chain_sum", size=3, terms=3)
    with pytest.raises(ValueError, match="size=0 must be a whole number"):
        reasoning.rows("chain_sum", size=0)


def test_a_row_without_an_entry_is_an_error(package):
    with pytest.raises(RewardError, match="has no column 'entry'"):
        score({}, "12")


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        (" 12 ", "12", "12"),
        ("3 + 9 = 12.", "12", "12"),
        ("3 cats", "cats", "3 cats"),
        ("<answer>1</answer> <answer> 2 </answer> 3", "2", "2"),
        ("", "2", ""),
        ("two", "2", ""),
    ],
)
def test_the_answer_in_a_response(text, answer, found):
    assert answer_in(text, answer) == found


@pytest.mark.parametrize(
    "call",
    [
        "textenv.tasks.reasoning.rows('chain_sum')",
        "textenv.rewards.resolve_reward('reasoning')",
    ],
)
def test_without_the_package_one_sentence_says_what_to_install(call):
    code = (
        "import sys; sys.modules['reasoning_gym'] = None\n"
        "import textenv.rewards, textenv.tasks.reasoning\n"
        f"try:\n    {call}\n"
        "except ValueError as error:\n    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.startswith("The tasks of reasoning-gym need a package that is missing")
    assert out.stdout.endswith("pip install reasoning-gym\n")
