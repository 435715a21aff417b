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
        self.env, rows = env, env.num_envs
        self.prompts, self.responses = [None] * rows, [None] * rows
        self.ended = [None] * rows  # None: not begun, False: running, else how it ended
        self.of_prompt = {prompt.text: prompt.ids.tolist() for prompt in env.prompts}
        self.seed()

    def seed(self):
        """Each group begins a new sequence of prompts."""
        self.sequences = [{} for _ in range(self.env.num_envs // self.env.group_size)]
        self.episodes = [0] * self.env.num_envs

    def begin(self, rows, infos, together=False):
        """The k-th episode of each row of a group has the k-th prompt of the group."""
        rows = [int(row) for row in rows]
        size, before = self.env.group_size, list(self.episodes)
        for row in range(self.env.num_envs):
            assert infos.get("_prompt", [False] * self.env.num_envs)[row] == (row in rows)
        for row in rows:
            if together:
                self.episodes[row] = max(before[one] for one in rows if one // size == row // size)
            prompt = infos["prompt"][row]
            sequence = self.sequences[row // size]
            assert sequence.setdefault(self.episodes[row], prompt) == prompt
            self.episodes[row] += 1
            self.prompts[row] = self.of_prompt[prompt]
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
        for row in range(self.env.num_envs):
            tokens = self.prompts[row] + self.responses[row]
            padding = [0] * (self.env.max_length - len(tokens))
            assert observation["input_ids"][row].tolist() == tokens + padding
            assert observation["attention_mask"][row].tolist() == [1] * len(tokens) + padding

    def call(self, call, argument):
        """Make one call, legal or not, and check all that it returns."""
        env, mode, every = self.env, self.env.autoreset_mode, range(self.env.num_envs)
        waiting = [row for row in every if self.ended[row]]
        may_not_go_on = self.ended[0] is None or (waiting and mode == AutoresetMode.DISABLED)
        if call == "reset all":
            observation, infos = env.reset(seed=argument)
            self.seed()
            self.begin(every, infos, together=True)
        elif call == "reset":
            options = {"reset_mask": np.array(argument)}
            if not any(argument) or (self.ended[0] is None and not all(argument)):
                with pytest.raises(ValueError, match=r"reset_mask"):
                    env.reset(options=options)
                return
            observation, infos = env.reset(options=options)
            self.begin(np.flatnonzero(argument), infos, together=True)
        elif may_not_go_on:
            with pytest.raises(gym.error.ResetNeeded, match=r"reset\("):
                env.step(np.array(argument))
            return
        elif call == "illegal step":
            with pytest.raises(ValueError, match=r"actions (have|contain)"):
                env.step(np.array(argument))
            return
        else:
            observation, rewards, terminated, truncated, infos = env.step(np.array(argument))
            ended = [row not in waiting and bool(self.append(row, argument[row])) for row in every]
            assert terminated.tolist() == ended and not truncated.any()
            assert rewards.tolist() == [float(end) for end in ended]
            details = infos.get("final_info", infos)
            for row in np.flatnonzero(ended):
                assert details["finish_reason"][row] == self.ended[row]
                assert details["response_length"][row] == len(self.responses[row])
            if mode == AutoresetMode.SAME_STEP:
                self.begin(np.flatnonzero(ended), infos)
            else:
                self.begin(waiting, infos)  # NEXT_STEP: this step only reset them
        self.check(observation)


def make(arguments, rows, mode, least, group_size):
    """An environment of short episodes, whose reward is always 1."""
    short = {"reward": lambda prompt, response: 1.0, "max_new_tokens": 3, "min_new_tokens": least}
    return TextGenVectorEnv(
        rows, **arguments | short, stop=[1], autoreset_mode=mode, group_size=group_size
    )


@settings(max_examples=120, deadline=None)
@given(
    mode=st.sampled_from(AutoresetMode),
    least=st.integers(0, 3),
    group_size=st.sampled_from([1, 3]),
    calls=CALLS,
)
def test_random_calls_keep_to_the_rules(arguments, mode, least, group_size, calls):
    model = Model(make(arguments, 3, mode, least, group_size))
    for call, argument in calls:
        model.call(call, argument)


@pytest.mark.slow
def test_a_hundred_thousand_random_calls_keep_to_the_rules(arguments):
    """Six rows, in every mode and in groups of every size; sequences of up to 2,000 calls."""
    rng, count = np.random.default_rng(0), 0
    while count < 100_000:
        mode, least = rng.choice(list(AutoresetMode)), int(rng.integers(4))
        model = Model(make(arguments, 6, mode, least, int(rng.choice([1, 2, 3, 6]))))
        for _ in range(int(rng.integers(1, 2000))):
            kind = rng.choice(
                ["step", "illegal step", "reset", "reset all"], p=[0.8, 0.05, 0.13, 0.02]
            )
            if kind == "step":
                argument = rng.choice([0, 1, 60, 61, 258], 6, p=[0.1, 0.1, 0.3, 0.3, 0.2]).tolist()
            elif kind == "illegal step":
                argument = [[0], [60] * 5 + [259], [-1] * 6, [0.5] * 6, [[0] * 6]][rng.integers(5)]
            else:
                argument = int(rng.integers(9)) if kind == "reset all" else (rng.random(6) < 0.4)
            model.call(str(kind), argument if isinstance(argument, int | list) else [*argument])
            count += 1


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
