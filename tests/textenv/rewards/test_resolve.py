"""Whatever a user calls a reward becomes a function of a batch of episodes, with a name."""

from __future__ import annotations

import functools
import re
import sys

import pytest

from textenv.rewards import NamedReward, names_code, resolve_reward, score_episodes


def number_of_words(prompt: str, response: str) -> int:
    return len(response.split())


def numbers_of_words(episodes):
    return [len(episode.response.split()) for episode in episodes]


class CallableReward:
    def __call__(self, episodes):
        return numbers_of_words(episodes)

    def score(self, prompt, response):
        return number_of_words(prompt, response)


def with_options(episodes, scale=2.0, *, offset=1.0, **others):
    return [scale * words + offset for words in numbers_of_words(episodes)]


def with_factor(factor, prompt, response):
    return factor * number_of_words(prompt, response)


@pytest.mark.parametrize(
    ("source", "name", "score"),
    [
        (numbers_of_words, "numbers_of_words", 2.0),
        (number_of_words, "number_of_words", 2.0),
        (lambda prompt, response: 7, "<lambda>", 7.0),
        (CallableReward(), "CallableReward", 2.0),
        (CallableReward().score, "score", 2.0),
        (with_options, "with_options", 5.0),
        (functools.partial(with_factor, 3), "with_factor", 6.0),
    ],
)
def test_callables(source, name, score, make_episodes):
    reward = resolve_reward(source)
    assert reward.name == name
    assert score_episodes(reward, make_episodes("two words")) == [score]


def test_a_resolved_reward_is_left_as_it_is():
    reward = resolve_reward("length")
    assert resolve_reward(reward) is reward


def test_a_name_of_its_own_is_kept():
    assert resolve_reward(NamedReward("mine", numbers_of_words)).name == "mine"


def no_parameters():
    return []


def three_parameters(first, second, third):
    return 0.0


def required_keyword(episodes, *, answer):
    return []


@pytest.mark.parametrize("function", [no_parameters, three_parameters, required_keyword, print])
def test_a_callable_with_other_parameters_is_refused(function):
    with pytest.raises(
        TypeError,
        match=rf"reward '{function.__name__}' has the parameters \(.*\): "
        r"a reward takes \(episodes\), or \(prompt, response\)",
    ):
        resolve_reward(function)


def test_a_callable_that_hides_its_parameters_is_refused():
    with pytest.raises(TypeError, match=r"reward 'max' does not show its parameters: wrap it"):
        resolve_reward(max)


def test_a_class_is_refused():
    with pytest.raises(TypeError, match=r"reward 'CallableReward' is a class: pass an instance"):
        resolve_reward(CallableReward)


@pytest.mark.parametrize("source", [None, 3])
def test_what_is_no_reward_is_refused(source):
    with pytest.raises(TypeError, match=rf"reward={source} is a .*: pass a callable, a name"):
        resolve_reward(source)


@pytest.fixture
def rewards_module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def shout(prompt, response):\n    return float(response.isupper())\n\nlimit = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_rewards"
    sys.modules.pop("my_rewards", None)


def test_a_function_of_a_module(rewards_module, make_episodes):
    reward = resolve_reward("my_rewards:shout")
    assert reward.name == "my_rewards:shout"
    assert score_episodes(reward, make_episodes("HEY", "hey")).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no_such_module:shout", "No module named 'no_such_module'"),
        ("my_rewards:whisper", "has no attribute 'whisper'"),
        (":shout", "Empty module name"),
    ],
)
def test_a_function_that_cannot_be_imported_is_refused(rewards_module, source, reason):
    with pytest.raises(ValueError, match=rf"reward='{source}' cannot be imported \(.*{reason}.*\)"):
        resolve_reward(source)


def test_a_name_in_a_module_that_is_no_function_is_refused(rewards_module):
    with pytest.raises(TypeError, match=r"reward 'my_rewards:limit' is a int, not callable"):
        resolve_reward("my_rewards:limit")


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("module:function", True),
        ("length", False),
        ("keyword(a:b)", False),
        ("owner/model", False),
        (number_of_words, False),
        ({"length": 1.0, "module:function": 0.5}, True),
        ({"length": 1.0, number_of_words: 0.5}, False),
        ([("length", 1.0), ("module:function", 0.5)], True),
        ([["length", 1.0], [[("module:function", 1.0)], 0.5]], True),
        ([("length", 1.0)], False),
        ([], False),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),  # the same in every process
)
def test_whether_a_reward_names_code_that_resolving_it_would_import(source, answer):
    assert names_code(source) is answer
