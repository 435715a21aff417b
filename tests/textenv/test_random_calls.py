"""Calls drawn at random keep to the rules of an episode, as plain lists have them."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from textenv import TextGenEnv, TextGenVectorEnv

LEGAL = st.lists(st.sampled_from([0, 1, 60, 61, 258]), min_size=3, max_size=3)
ILLEGAL = st.sampled_from([[0, 0], [60, 60, 259], [-1, 0, 0], [1.0, 1.0, 1.0], [[0, 0, 0]], 5])
MASKS = st.lists(st.booleans(), min_size=3, max_size=3)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), LEGAL),
        st.tuples(st.just("step"), LEGAL),
        st.tuples(st.just("illegal step"), ILLEGAL),
        st.tuples(st.just("reset"), MASKS),
        st.tuples(st.just("reset all"), st.integers(0, 5)),
    ),
    max_size=25,
)


class Model:
    """The environment as its documentation has it, in plain lists."""

    def __init__(self, env):
        self.env, self.prompts, self.responses = env, [None] * 3, [None] * 3
        self.ended = [None] * 3  # None: not begun, False: running, else how it ended

    def begin(self, rows, infos):
        for row in range(3):
            assert infos.get("_prompt", [False] * 3)[row] == (row in rows)
            if row in rows:
                ids = {prompt.text: prompt.ids.tolist() for prompt in self.env.prompts}
                self.prompts[row] = ids[infos["prompt"][row]]
                self.responses[row], self.ended[row] = [], False

    def append(self, row, token):
        """The reason for which the row ends with this token, or False."""
        response = self.responses[row]
        response.append(token)
        if token in (0, 1) and len(response) >= self.env.task.arguments["min_new_tokens"]:
            self.ended[row] = "stop"
        elif len(response) == self.env.max_new_tokens:
            self.ended[row] = "length"
        return self.ended[row]

    def check(self, observation):
        assert observation in self.env.observation_space
        for row in range(3):
            tokens = self.prompts[row] + self.responses[row]
            padding = [0] * (self.env.max_length - len(tokens))
            assert observation["input_ids"][row].tolist() == tokens + padding
            assert observation["attention_mask"][row].tolist() == [1] * len(tokens) + padding


@settings(max_examples=120, deadline=None)
@given(mode=st.sampled_from(AutoresetMode), least=st.integers(0, 3), calls=CALLS)
def test_random_calls_keep_to_the_rules(arguments, mode, least, calls):
    env = TextGenVectorEnv(
        3,
        **arguments
        | {"reward": lambda prompt, response: 1.0, "max_new_tokens": 3, "min_new_tokens": least},
        stop=[1],
        autoreset_mode=mode,
    )
    model = Model(env)
    for call, argument in calls:
        waiting = [row for row in range(3) if model.ended[row]]
        may_not_go_on = model.ended[0] is None or (waiting and mode == AutoresetMode.DISABLED)
        if call == "reset all":
            observation, infos = env.reset(seed=argument)
            model.begin([0, 1, 2], infos)
        elif call == "reset":
            options = {"reset_mask": np.array(argument)}
            if not any(argument) or (model.ended[0] is None and not all(argument)):
                with pytest.raises(ValueError, match=r"reset_mask"):
                    env.reset(options=options)
                continue
            observation, infos = env.reset(options=options)
            model.begin(np.flatnonzero(argument), infos)
        elif may_not_go_on:
            with pytest.raises(gym.error.ResetNeeded, match=r"reset\("):
                env.step(np.array(argument))
            continue
        elif call == "illegal step":
            with pytest.raises(ValueError, match=r"actions (have|contain)"):
                env.step(np.array(argument))
            continue
        else:
            observation, rewards, terminated, truncated, infos = env.step(np.array(argument))
            ended = [
                row not in waiting and bool(model.append(row, argument[row])) for row in range(3)
            ]
            assert terminated.tolist() == ended and not truncated.any()
            assert rewards.tolist() == [float(end) for end in ended]
            details = infos.get("final_info", infos)
            for row in np.flatnonzero(ended):
                assert details["finish_reason"][row] == model.ended[row]
                assert details["response_length"][row] == len(model.responses[row])
            if mode == AutoresetMode.SAME_STEP:
                model.begin(np.flatnonzero(ended), infos)
            else:
                model.begin(waiting, infos)  # NEXT_STEP: this step only reset them
        model.check(observation)


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(st.sampled_from([0, 1, 60, 61, 258]), max_size=12), seed=st.integers(0, 100)
)
def test_random_actions_in_the_single_environment_end_once(arguments, actions, seed):
    env = TextGenEnv(**arguments | {"max_new_tokens": 3})
    observation, info = env.reset(seed=seed)
    start, ended = int(observation["attention_mask"].sum()), False
    for number, action in enumerate(actions, start=1):
        if ended:
            with pytest.raises(gym.error.ResetNeeded, match=r"have ended"):
                env.step(action)
            continue
        observation, value, ended, truncated, details = env.step(action)
        assert ended is (action == 0 or number == 3) and truncated is False
        assert observation in env.observation_space
        assert observation["attention_mask"].sum() == start + number
        assert math.isfinite(value) and (value != 0) == ended == ("score" in details)
        if ended:
            score = arguments["reward"](info["prompt"], details["response"])
            assert value == pytest.approx(score)
