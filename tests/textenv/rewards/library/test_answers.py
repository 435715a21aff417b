"""Rewards that compare the end of a response with an answer."""

from __future__ import annotations

import numpy as np
import pytest

from textenv.episode import Episode
from textenv.rewards import RewardError, resolve_reward, score_episodes
from textenv.rewards.library.arithmetic import evaluate
from textenv.rewards.library.countdown_reward import last_expression, reaches


def score(name: str, response: str, finish_reason: str = "stop", **data) -> float:
    episode = Episode("Ask: ", response, np.arange(2), np.arange(3), finish_reason, data)
    return score_episodes(resolve_reward(name), [episode])[0]


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("12", 1),
        ("The sum is 12.", 1),
        ("4 + 8 = 12", 1),
        ("12.0", 1),
        ("10 11 12 13", 0),
        ("12 is not 13", 0),
        ("-12", 0),
        ("112", 0),
        ("1.12", 0),
        ("twelve", 0),
        ("", 0),
        ("9" * 400, 0),
    ],
)
def test_the_last_number_is_the_answer(response, right):
    assert score("last_number", response, answer=12) == right


@pytest.mark.parametrize(
    ("response", "answer"), [("x = -3", -3), ("x = −3", -3), ("10-3", 3), ("it is 2.5", "2.5")]
)
def test_signs_and_decimals_belong_to_numbers(response, answer):
    assert score("last_number", response, answer=answer) == 1


NUMBERS = [
    ("1,234", 1234), ("$1,234.50 in all", 1234.5), (".5", 0.5), ("-.5", -0.5), ("3/4", 0.75),
    ("1 3/4 cups", 1.75), (r"\frac{3}{4}", 0.75), (r"\dfrac34", 0.75), (r"-\frac{1}{2}", -0.5),
    ("1.2e3", 1200), ("1.2 × 10^3", 1200), (r"3 \times 10^{-2}", 0.03), ("50%", 50), ("50 %", 50),
    ("-$5", -5), ("$-5", -5), ("+5", 5), ("5 km", 5), ("90°", 90), ("12.", 12), ("12.0", 12),
    (r"\boxed{42}", 42), ("2+2=4 #### 1,072", 1072), ("€ 18.90", 18.9), ("x = 5", 5),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_numbers_as_people_write_them(text, value):
    """In a response, and as the answer, against the number itself."""
    assert score("last_number", f"It is {text}", answer=value) == 1
    assert score("last_number", f"It is {value}", answer=text) == 1
    assert score("last_number", f"It is {text}", answer=value + 1) == 0


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("4 - 7", 7), ("on 12/25/2024", 2024), ("1, 2, 3", 3), ("at 10:30", 30), ("1.2.3", 3),
        (r"\boxed{42}, as a week has 7 days", 42), ("12e", 12), ("24/7", 24 / 7),
    ],
)  # fmt: skip
def test_what_is_the_last_number(response, answer):
    known = "24/7" if response == "24/7" else answer
    assert score("last_number", response, answer=known) == 1


@pytest.mark.parametrize("response", ["12 or 5/0", "12 or 1e999999999", "12 or " + "9" * 400])
def test_a_number_that_cannot_be_read_is_the_last_one_all_the_same(response):
    assert score("last_number", response, answer=12) == 0


@pytest.mark.parametrize(
    "answer",
    ["2x", "3x^2", "abc", "", None, True, float("nan"), "1 and 2", r"2\pi", "(1,2)", "1:2", [3]],
)
def test_answers_that_are_no_number_are_refused(answer):
    with pytest.raises(RewardError, match="must be a number"):
        score("last_number", "3", answer=answer)


def test_large_whole_numbers_are_told_apart():
    assert score("last_number", "12345678901234567891", answer=12345678901234567890) == 0


@pytest.mark.parametrize("answer", [12, 12.0, np.int64(12), np.float32(12), "12", "24 / 2 #### 12"])
def test_answers_of_any_kind(answer):
    assert score("last_number", "12", answer=answer) == 1


@pytest.mark.parametrize(
    "columns",
    [{"nums": [3, 5], "target": 8}, {"numbers": "[3, 5]", "target": "8"},
     {"nums": np.array([3, 5]), "target": np.int64(8)}],
)  # fmt: skip
def test_columns_of_public_countdown_sets(columns):
    assert score("countdown", "3 + 5", **columns) == 1


@pytest.mark.parametrize(
    ("response", "right"),
    [("tac", 1), ('The answer is "TAC".', 1), ("cat", 0), ("tac cat", 0), ("t a c", 0), ("", 0)],
)
def test_the_last_word_is_the_answer(response, right):
    assert score("last_word", response, answer="tac") == right


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("3 + 5", 1),
        ("So 3 + 5 = 8.", 1),
        ("8 = 5+3", 1),
        ("**3 + 5**", 1),
        ("- 3 + 5", 1),
        ("1. 3 + 5 = 8", 1),
        ("2 × (9 - 5)", 1),
        ("2 x 9 - 5 - 5", 0),  # 5 is used twice
        ("4 + 4", 0),  # 4 is not given
        ("3 + 5 = 8, and 9 - 5 = 4", 0),  # the last expression counts
        ("8", 0),
        ("3 + 5 +", 0),
        ("2 ** 3", 0),
        ("-5 + 3 + 9", 0),
        ("3.0 + 5", 0),
        ("(3 + 5", 0),
        ("5 / (3 - 3)", 0),
        ("__import__('os')", 0),
        ("", 0),
    ],
)
def test_an_expression_reaches_the_target(response, right):
    assert score("countdown", response, numbers=[2, 3, 5, 9], target=8) == right


def test_quotients_are_exact():
    assert reaches("9 / 3 + 5", [9, 3, 5], 8)
    assert reaches("3 * (5 / 3)", [3, 5, 3], 5)


def test_a_very_long_expression_is_none():
    text = "(" * 10_000 + "3 + 5" + ")" * 10_000
    assert last_expression(text) == text and not reaches(text, [3, 5], 8)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("8 - 3 - 2", 3), ("8 / 4 / 2", 1), ("7", 7)],
)
def test_precedence(expression, value):
    assert evaluate(expression)[0] == value


@pytest.mark.parametrize(
    "expression", ["", "1 +", "1 2", "()", "1 / 0", "2 ** 3", "1.5", "(1", "a"]
)
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(ValueError):
        evaluate(expression)


@pytest.mark.parametrize(
    ("name", "response", "data"),
    [
        ("last_number", "12", {"answer": 12}),
        ("last_word", "tac", {"answer": "tac"}),
        ("countdown", "3 + 5", {"numbers": [3, 5], "target": 8}),
    ],
)
def test_an_unfinished_response_scores_nothing(name, response, data):
    assert score(name, response, **data) == 1
    assert score(name, response, "length", **data) == 0


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("last_number", {}, "the prompt's row has no column 'answer', only \\[\\]: give prompts"),
        ("last_word", {"topic": "x"}, "has no column 'answer', only \\['topic'\\]"),
        ("countdown", {"numbers": [1]}, "has no column 'target'"),
        ("last_number", {"answer": "ten"}, "the column answer holds 'ten': it must be a number"),
        ("last_word", {"answer": 3}, "the column answer holds 3: it must be one word"),
    ],
)
def test_a_row_that_does_not_fit_is_an_error(name, data, message):
    with pytest.raises(RewardError, match=message):
        score(name, "1", **data)


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(ValueError, match="did you mean 'last_number'"):
        resolve_reward("lastnumber")
