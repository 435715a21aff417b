"""Calculator-v0: what may stand in a call, and what a call is answered."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from textenv.episode import Episode, Turn
from textenv.tasks import calculator

NONE = np.zeros(0, np.int64)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("23*17", 391), ("2+3*4", 14), ("(2+3)*4", 20), ("-3 - -4", 1), (" 12 * 12 ", 144), ("0", 0)],
)
def test_arithmetic(expression, value):
    assert calculator.value(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').getcwd()", "9**9**9", "1/0", "x", "'a'*3", "1.5*2", "99999*99999", "",
        "True+1", "[1]*3", "1" * 70, "(" * 50, "1;2", "a:=3", "lambda: 3",
    ],
)  # fmt: skip
def test_what_is_no_arithmetic(expression):
    with pytest.raises((ValueError, SyntaxError, MemoryError)):
        calculator.value(expression)
    said = Turn(f" [{expression}", NONE, "stop")
    assert calculator.respond(Episode("", "", NONE, NONE, "", {}, (said,))) == " = ?"


def test_a_call_gets_its_value_and_a_text_without_one_the_end():
    def reply(text, reason="stop"):
        said = Turn(text, NONE, reason)
        return calculator.respond(Episode("", "", NONE, NONE, "", {}, (said,)))

    assert reply(" [23*17") == " = 391."
    assert reply(" I say [2*3 or [4*5") == " = 20."
    assert reply(" Answer: 391").end and reply(" [23*17", "length").end


def test_an_episode_with_the_tool():
    env = gym.make("Calculator-v0")
    encode = lambda text: env.unwrapped.tokenizer(text, add_special_tokens=False)  # noqa: E731
    _, info = env.reset(options={"prompt_index": 0})
    answer = env.unwrapped.prompts[0].data["answer"]
    one, other = info["prompt"].rpartition("Question: ")[2].rstrip("?").split(" times ")
    for token in encode(f" [{one}*{other}]")["input_ids"]:
        _, _, ended, _, info = env.step(token)
    assert not ended and info["reply"] == f" = {answer}."
    for token in encode(f" Answer: {answer}\n")["input_ids"]:
        _, reward, ended, _, info = env.step(token)
    assert ended and reward == 1 and info["turns"] == 2
    assert info["transcript"] == f" [{one}*{other} ‹= {answer}.› Answer: {answer}"
