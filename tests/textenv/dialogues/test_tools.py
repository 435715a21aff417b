"""Functions and environments of TRL as tools: what a model may write, and what it reads then."""

from __future__ import annotations

import json

import pytest

from textenv import TextGenEnv
from textenv.dialogues import tools, trl
from textenv.dialogues.tools import answer, calls

TEMPLATE = (
    "{% if tools %}tools: {% for t in tools %}{{ t.function.name }} {% endfor %}\n{% endif %}"
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first one.
        b: The second one.
    """
    return a + b


def fail(text: str) -> str:
    """Raise an error.

    Args:
        text: What it says.
    """
    raise KeyError(text)


def call(name="add", **arguments):
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (call(a=1, b=2), [("add", {"a": 1, "b": 2})]),
        (f"I <tool_call>\n{call(a=1, b=2)}\n</tool_call> wait", [("add", {"a": 1, "b": 2})]),
        ('{"name": "add", "parameters": {"a": 1}}', [("add", {"a": 1})]),
        (call(a=1) + call(a=2), [("add", {"a": 1}), ("add", {"a": 2})]),
        (f'{{"x": {{}}}} {call(a={"b": 3})}', [("add", {"a": {"b": 3}})]),
        ('{"name": 3, "arguments": {}}', []),
        ('{"name": "add", "arguments": "1"}', []),
        ("{" * 5000, []),
        ("no call", []),
    ],
)
def test_calls_are_found_wherever_they_are(text, found):
    assert calls(text) == found


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("The answer is 3.", None),
        (call(a=1, b=2), "3"),
        (call(a=1, b=2) + call(a=3, b=4), "3\n7"),
        ('{"name": "add", "arguments": {"a": 1,', 'The call cannot be read: write {"name"'),
        (call("sub", a=1), "There is no tool 'sub', only add, fail."),
        (call(a=1), "add does not take these arguments: missing a required argument: 'b'."),
        (call("fail", text="x"), "fail failed: KeyError: 'x'."),
    ],
)
def test_each_call_gets_one_clear_reply(text, reply):
    found = answer(text, {"add": add, "fail": fail})
    assert found == reply or found.startswith(reply)


def say(env, text):
    """Let the policy write a text and its end; the last step."""
    for token in [*env.tokenizer(text)["input_ids"], env.tokenizer.eos_token_id]:
        step = env.step(token)
    return step


@pytest.fixture
def chat(tokenizer):
    """``chat(respond)``: an environment of one conversation."""

    def make(respond, **changes):
        tokenizer.chat_template = TEMPLATE
        prompts = [{"prompt": [{"role": "user", "content": "1 + 2?"}], "answer": 3}]
        return TextGenEnv(
            tokenizer=tokenizer, prompts=prompts, respond=respond, max_new_tokens=200,
            reward=lambda episodes: [0.0] * len(episodes), max_reply_tokens=80, **changes,
        )  # fmt: skip

    yield make
    tokenizer.chat_template = None


def test_the_template_shows_the_tools_and_writes_what_they_return(chat):
    env = chat(tools([add]))
    observation, info = env.reset(seed=0)
    assert info["prompt"] == "tools: add <user>1 + 2?<end><assistant>"
    observation, _, ended, _, info = say(env, call(a=1, b=2))
    assert not ended and info["reply"] == "3"
    text = env.tokenizer.decode(observation["input_ids"][: observation["attention_mask"].sum()])
    assert text.endswith("}}<end><tool>3<end><assistant>")
    _, _, ended, _, info = say(env, "It is 3.")
    assert ended and info["finish_reason"] == "end" and info["turns"] == 2


class Counter:
    """As TRL's GRPOTrainer takes one."""

    def reset(self, prompt, answer, **row):
        self.count, self.answer = 0, answer

    def increment(self, step: int) -> int:
        """Count on.

        Args:
            step: By how much.
        """
        self.count += step
        return self.count

    def get_reward(self):
        return 1.0 - abs(self.answer - self.count)

    def _hidden(self):
        raise AssertionError


def test_an_environment_of_trl(chat):
    env = chat(trl(Counter))
    env.reset(seed=0)
    assert env.task.respond.schemas[0]["function"]["name"] == "increment"
    assert len(env.task.respond.schemas) == 1
    rewards = []
    for text, reply in [(call("increment", step=1), "1"), (call("increment", step=2), "3")]:
        _, reward, _, _, info = say(env, text)
        rewards.append(reward)
        assert info["reply"] == reply
    _, reward, ended, _, info = say(env, "done")
    assert ended and rewards == [-1, 2] and reward == 0
    assert info["score"] == 1.0 == info["score/turns"]  # get_reward at the end
    env.reset()
    assert say(env, call("increment", step=1))[4]["reply"] == "1"  # it began anew


class Speaks(Counter):
    def reset(self, **row):
        return "Welcome!"


def undescribed(a, b):
    return a


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: tools([]), ValueError, "give at least one"),
        (lambda: tools([add, add]), ValueError, "with its own name"),
        (lambda: tools([undescribed]), ValueError, "'undescribed' has no schema"),
        (lambda: trl(int), TypeError, "takes a class with reset"),
        (lambda: trl(Counter()), TypeError, "takes a class with reset"),
    ],
)
def test_what_is_no_tool_is_a_sentence(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_an_environment_that_speaks_first_is_named(chat):
    env = chat(trl(Speaks))
    with pytest.raises(RuntimeError, match="put it into the prompts"):
        env.reset(seed=0)
