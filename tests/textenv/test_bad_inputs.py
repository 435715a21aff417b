"""Wrong arguments of environments: each ends in one sentence that names argument and value."""

from __future__ import annotations

import json
import pickle

import gymnasium as gym
import numpy as np
import pytest

import textenv
from textenv import TextGenEnv
from textenv.episode import Episode
from textenv.lm.stop_rule import StopRule
from textenv.shown import printable

NAN, INF = float("nan"), float("inf")
ARGUMENTS = [
    ("max_new_tokens", 0), ("max_new_tokens", -1), ("min_new_tokens", -1), ("min_new_tokens", 99),
    ("no_stop_penalty", NAN), ("no_stop_penalty", INF), ("reward_timeout", 0),
    ("reward_timeout", -1), ("reward_timeout", NAN), ("reward_retries", -1),
    ("reward_retries", 0.5), ("stop", True), ("stop", [False]), ("stop", b"\n"), ("stop", [b"x"]),
    ("stop", 10**9), ("stop", -1), ("stop", [""]), ("stop", 1.5), ("stop", [None]),
    ("kl_coef", NAN), ("kl_coef", INF), ("kl_coef", -0.1), ("kl_coef", "0.1"),
    ("kl_coef", {"goal": 3}), ("kl_coef", 0.1), ("reference_dtype", "int8"),
    ("prompts", []), ("prompts", {"a", "b"}), ("prompts", frozenset("ab")), ("prompts", 3),
    ("prompts", [3]), ("prompts", {"prompt": ["a"]}), ("prompts", "nofile.txt"),
    ("prompts", [{"question": "a"}]), ("prompts", [{"prompt": [{"role": "user"}]}]),
    ("max_prompt_tokens", 0), ("reward", "sentimint"), ("reward", "length("),
    ("max_new_tokens", "5"), ("max_new_tokens", 2.5), ("max_new_tokens", True),
    ("max_new_tokens", NAN), ("max_new_tokens", None), ("min_new_tokens", "1"),
    ("min_new_tokens", 1.5), ("min_new_tokens", None), ("max_prompt_tokens", "5"),
    ("max_prompt_tokens", -1), ("max_prompt_tokens", 1.5), ("max_prompt_tokens", True),
    ("no_stop_penalty", "x"), ("no_stop_penalty", None), ("no_stop_penalty", True),
    ("reward_timeout", "5"), ("reward_timeout", True), ("reward_retries", "1"),
    ("reward_retries", None), ("reward_retries", True), ("stop", {"a": 1}), ("reward", None),
    ("reward", 3), ("reward", []), ("reward", {}), ("reward", {"sentiment": "x"}),
    ("reward", {"sentiment": NAN}), ("reward", [("sentiment",)]), ("reward", lambda: 1),
    ("reward", lambda a, b, c: 1), ("reward", int), ("tokenizer", 5), ("tokenizer", None),
    ("prompts", None), ("prompts", ""), ("prompts", [None]), ("prompts", b"ab"),
    ("prompts", [b"x"]), ("prompts", np.array([1, 2])), ("prompts", 5.0), ("kl_coef", True),
    ("kl_coef", None), ("kl_coef", [1]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), ARGUMENTS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(ARGUMENTS)]
)
def test_an_argument_is_refused_by_its_name(name, value):
    with pytest.raises((ValueError, TypeError)) as error:
        TextGenEnv(**{name: value})
    message = str(error.value)
    assert name.split("_")[0] in message and "\n" not in message and len(message) < 400


OF_VECTORS = [
    ("num_envs", 0), ("num_envs", -1), ("num_envs", 1.5), ("num_envs", "2"), ("num_envs", True),
    ("group_size", 0), ("group_size", -1), ("group_size", 1.5), ("group_size", "2"),
    ("scoring", "fast"), ("scoring", None), ("array", "jax"), ("device", "gpu"),
    ("device", 1.5), ("autoreset_mode", "x"), ("autoreset_mode", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), OF_VECTORS, ids=str)
def test_an_argument_of_a_vector_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r} (must|is unknown)") as error:
        textenv.TextGenVectorEnv(**{"num_envs": 2, name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("action", ["a", 1.5, -1, 10**6, None, [1], [1, 2], True, NAN], ids=str)
def test_an_action_is_one_token(action):
    env = TextGenEnv(max_new_tokens=2)
    before = env.reset(seed=0)[0]["input_ids"].tolist()
    with pytest.raises(ValueError, match=r"actions? ?(=|contain)"):
        env.step(action)
    observation, *_ = env.step(5)  # the wrong one took no place
    length = np.count_nonzero(before)
    assert observation["input_ids"].tolist()[: length + 1] == [*before[:length], 5]
    assert observation["attention_mask"].sum() == length + 1


ACTIONS = ["ab", [1.0, 2.0], [1], [1, 2, 3], None, [True, False], [NAN, 1], [[1], [2]], [0, -1]]


@pytest.mark.parametrize("actions", ACTIONS, ids=str)
def test_actions_are_one_token_for_each_row(actions):
    envs = gym.make_vec("TextGen-v0", num_envs=2, max_new_tokens=2)
    before = envs.reset(seed=0)[0]["attention_mask"].sum()
    with pytest.raises(ValueError, match=r"actions (have|contain)"):
        envs.step(actions)
    assert envs.step(np.array([5, 5]))[0]["attention_mask"].sum() == before + 2


OPTIONS = [
    {"prompt": 3}, {"reset_masks": [True]}, {"prompt_index": 10**6}, {"prompt_index": -1},
    {"prompt_index": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_of_a_reset_are_checked(options):
    with pytest.raises(ValueError, match="options"):
        TextGenEnv().reset(options=options)
    values = {k: np.array([v, v]) if k == "prompt_index" else v for k, v in options.items()}
    with pytest.raises(ValueError, match="options"):
        gym.make_vec("TextGen-v0", num_envs=2).reset(options=values)


@pytest.mark.parametrize("seed", [1.5, "1", True, [1, 2.5], ["a", "b"], [1], [1, 2, 3]], ids=str)
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(ValueError, match="seed"):
        gym.make_vec("TextGen-v0", num_envs=2).reset(seed=seed)


def test_numbers_of_numpy_are_numbers():
    envs = gym.make_vec("TextGen-v0", num_envs=2, stop=np.int64(5))
    assert 5 in envs.unwrapped.task.stop_rule.tokens
    envs.reset(seed=np.int32(3))
    envs.reset(seed=[np.int64(3), None])


def test_a_reward_cannot_change_the_prompts():
    def pops(episodes):
        return [float(episode.data.pop("answer")) for episode in episodes]

    env = gym.make("TextGen-v0", prompts=[{"prompt": "a", "answer": 1}], reward=pops,
                   max_new_tokens=1)  # fmt: skip
    for _ in range(2):
        env.reset()
        with pytest.raises(textenv.rewards.RewardError, match="read-only"):
            env.step(5)
    episode = Episode("p", "r", np.array([1]), np.array([2]), "stop", {"answer": [1]})
    for change in (
        lambda d: d.__setitem__("answer", 2), lambda d: d.clear(), lambda d: d.update(answer=2),
        lambda d: d.__delitem__("answer"), lambda d: d.setdefault("b", 1), lambda d: d.popitem(),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="read-only"):
            change(episode.data)
    again = pickle.loads(pickle.dumps(episode))
    assert again.data == {"answer": [1]} == dict(episode.data)
    assert json.dumps(episode.data) == '{"answer": [1]}'


def test_control_characters_of_a_prompt_do_not_reach_the_terminal():
    assert printable("a\x1b[2Jb\x07\x9b\n\tü") == "a\\x1b[2Jb\\x07\\x9b\n\tü"
    env = gym.make("TextGen-v0", prompts=["The \x1b]0;title\x07film"], render_mode="ansi")
    env.reset()
    assert "\x1b" not in env.render() and "\\x1b]0;title" in env.render()


def test_every_end_of_the_generation_config_stops(tmp_path):
    from textenv.lm.loading import end_tokens, load_tokenizer

    tokenizer = load_tokenizer("bundled")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    chat = load_tokenizer(tmp_path)
    assert end_tokens(chat) == sorted({tokenizer.eos_token_id, 7, 9})
    assert StopRule(chat).tokens == end_tokens(chat)
    env = TextGenEnv(tokenizer=str(tmp_path), max_new_tokens=5)
    env.reset()
    _, _, terminated, _, info = env.step(9)
    assert terminated and info["finish_reason"] == "stop"
