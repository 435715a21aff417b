"""Environments pickle, so that processes can be given them: each reward, and all that is live."""

from __future__ import annotations

import copy
import functools
import importlib.util
import pickle

import cloudpickle
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence as equivalent
from gymnasium.vector import AsyncVectorEnv

from textenv import TextGenEnv, TextGenVectorEnv
from textenv.rewards.names import EVERY_NAME

ROW = {
    "prompt": "2 + 2 =", "answer": "4", "numbers": [2, 2], "target": 4, "topic": "robots",
    "dataset": "chain_sum", "entry": {"answer": "4", "metadata": {}},
}  # fmt: skip


def each(prompt, response):
    return float(len(response))


def of_trl(completions, answer, **columns):
    return [float(len(text + right)) for text, right in zip(completions, answer, strict=True)]


REWARDS = {name: "keyword(2)" if name == "keyword" else name for name in EVERY_NAME} | {
    "sum": {"length(5)": 1.0, "sentiment": -0.5},
    "prompt and response": each,
    "trl": of_trl,
}


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("library", [pickle, cloudpickle], ids=lambda library: library.__name__)
def test_an_environment_with_each_reward_goes_on_after_pickling(library, name, tokenizer):
    if name == "reasoning" and importlib.util.find_spec("reasoning_gym") is None:
        pytest.skip("reasoning-gym is not installed")
    row = ROW | ({"answer": "four"} if name == "last_word" else {})
    env = TextGenEnv(
        tokenizer=tokenizer, prompts=[row, row], reward=REWARDS[name], max_new_tokens=4
    )
    env.reset(seed=0)
    env.step(50)
    again = library.loads(library.dumps(env))
    for token in tokenizer(" 4.").input_ids:
        ours, theirs = env.step(token), again.step(token)
        assert equivalent(ours, theirs)
    assert ours[2] and equivalent(env.reset(), again.reset())


def test_live_objects_pickle(tokenizer, make_model):
    envs = TextGenVectorEnv(
        2, tokenizer=tokenizer, prompts=["ab", "c"], reward="length", reference=make_model(),
        render_mode="rgb_array",
    )  # fmt: skip
    envs.reset(seed=0)
    envs.step(np.array([50, 51]))
    again = pickle.loads(pickle.dumps(envs))
    for token in (52, 0):
        assert equivalent(envs.step(np.array([token, 53])), again.step(np.array([token, 53])))
    assert all(map(np.array_equal, envs.render(), again.render()))


def test_a_new_process_can_be_given_an_environment(tokenizer):
    env = TextGenEnv(tokenizer=tokenizer, prompts=["ab"], reward="sentiment", max_new_tokens=2)
    envs = AsyncVectorEnv([functools.partial(copy.copy, env)], context="spawn")
    try:
        envs.reset(seed=0)
        *_, terminated, _, _ = [envs.step(np.array([50])) for _ in range(2)][-1]
        assert terminated.all()
    finally:
        envs.close()
