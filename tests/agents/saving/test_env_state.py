"""The state of any environment as data; what cannot be read is refused."""

from __future__ import annotations

import enum
import json
import random
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents.saving import env_state
from agents.saving.resume import from_json, to_json
from textenv import TextGenEnv


def through_json(state):
    tensors: dict[str, torch.Tensor] = {}
    return from_json(json.loads(json.dumps(to_json(state, tensors))), tensors)


def text(**arguments):
    return lambda: TextGenEnv(max_new_tokens=6, **arguments)


ENVIRONMENTS = {
    "CartPole": lambda: gym.make_vec("CartPole-v1", num_envs=3),
    "sync": lambda: gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync"),
    "wrapped": lambda: gym.wrappers.vector.NormalizeReward(
        gym.wrappers.vector.NormalizeObservation(gym.make_vec("Pendulum-v1", num_envs=3))
    ),
    "tables": lambda: gym.make_vec("FrozenLake-v1", num_envs=2),
    "cards": lambda: gym.make_vec("Blackjack-v1", num_envs=2),
    "text": lambda: gym.make_vec("TextGen-v0", num_envs=4, max_new_tokens=6),
    "groups": lambda: gym.make_vec(
        "TextGen-v0", num_envs=4, max_new_tokens=6, group_size=2, autoreset_mode="SAME_STEP"
    ),
    "texts": lambda: SyncVectorEnv([text(), text()], autoreset_mode=AutoresetMode.SAME_STEP),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_goes_on_where_another_was(name):
    one, other = ENVIRONMENTS[name](), ENVIRONMENTS[name]()
    one.action_space.seed(0)
    actions = [one.action_space.sample() for _ in range(160)]
    one.reset(seed=3)
    for action in actions[:77]:
        one.step(action)
    state = through_json(env_state.capture(one))
    other.reset(seed=9)
    env_state.restore(other, state)
    for action in actions[77:]:
        ours, theirs = one.step(action), other.step(action)
        for mine, yours in zip(ours[:4], theirs[:4], strict=True):
            assert str(mine) == str(yours)
            if isinstance(mine, np.ndarray):
                np.testing.assert_array_equal(mine, yours)


class Colour(enum.Enum):
    RED = 1
    BLUE = 0


class Thing:
    def __init__(self, seed):
        self.numbers = [seed, 2.5, True, None, "text", np.float32(seed), np.int64(3)]
        self.arrays = {"a": np.full((2, 2), seed), 3: np.array(["x", "y"]), "u": np.uint16([seed])}
        self.sets, self.queue = {seed, 2}, deque([seed], maxlen=5)
        self.objects = np.array([{"k": seed}, None], dtype=object)
        self.tensor, self.chance = torch.tensor([seed]), random.Random(seed)
        self.generator, self.torch = np.random.default_rng(seed), torch.Generator()
        self.colour, self.function, self.itself = Colour(seed % 2), len, self
        self.slanted = torch.arange(6.0).reshape(2, 3).T + seed
        self.shared = self.arrays["a"]
        self.legacy = np.random.Generator(np.random.MT19937(seed))

    def draws(self):
        return (
            self.chance.random(), self.generator.random(), self.legacy.random(),
            torch.rand(1, generator=self.torch).item(),
        )  # fmt: skip


def test_every_kind_of_value():
    one, other = Thing(1), Thing(8)
    one.draws()
    state = through_json(env_state.capture(one))
    draws = one.draws()
    env_state.restore(other, state)
    assert other.draws() == draws
    assert other.numbers == one.numbers and other.sets == one.sets and other.queue == one.queue
    assert other.queue.maxlen == 5 and other.objects[0] == {"k": 1} and other.objects[1] is None
    for key in one.arrays:
        np.testing.assert_array_equal(other.arrays[key], one.arrays[key])
        assert other.arrays[key].dtype == one.arrays[key].dtype
    assert torch.equal(other.slanted, one.slanted) and other.colour is Colour.RED
    assert other.shared is other.arrays["a"] and torch.equal(other.tensor, one.tensor)


def test_what_cannot_be_read_or_does_not_fit_is_refused():
    thing = Thing(1)
    thing.memory = memoryview(b"x")
    with pytest.raises(env_state.NotData, match=r"Thing\.memory is a memoryview"):
        env_state.capture(thing)
    state = env_state.capture(Thing(1))
    other = Thing(1)
    other.generator = "not a generator"
    with pytest.raises(env_state.NotData, match=r"Thing\.generator is a str"):
        env_state.restore(other, state)
    # A file does not replace what is no state: methods, functions, classes.
    state["object"]["draws"] = 3
    with pytest.raises(env_state.NotData, match=r"Thing has no attribute 'draws'"):
        env_state.restore(Thing(1), state)
    state = env_state.capture(Thing(1))
    state["object"]["function"] = "os:system"
    with pytest.raises(env_state.NotData, match=r"Thing\.function is a builtin"):
        env_state.restore(Thing(1), state)


def test_state_that_would_be_lost_in_silence_is_refused():
    thing = Thing(1)
    thing.state = type("Mine", (list,), {})([1])
    with pytest.raises(env_state.NotData, match=r"Thing\.state is a Mine"):
        env_state.capture(thing)


def test_a_network_that_learns_is_state_and_any_other_is_none():
    things = Thing(1), Thing(1)
    for thing in things:
        thing.curiosity, thing.judge = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1).eval()
    judge = things[1].judge.weight.item()
    env_state.restore(things[1], through_json(env_state.capture(things[0])))
    assert torch.equal(things[1].curiosity.weight, things[0].curiosity.weight)
    assert things[1].judge.weight.item() == judge != things[0].judge.weight.item()


def test_settings_are_what_stays_and_are_compared():
    one, other = (gym.make_vec("Pendulum-v1", num_envs=2, g=g) for g in (10.0, 5.0))
    one.reset(seed=1)
    start = env_state.capture(one)
    one.step(one.action_space.sample())
    settings = env_state.settings(one, env_state.capture(one), start)
    assert 10.0 in settings.values()
    other.reset(seed=0)
    with pytest.raises(env_state.NotData, match=r"\.g is 5\.0; the saved one is 10\.0"):
        env_state.check_settings(other, env_state.capture(other), settings)
    one.reset(seed=0)
    env_state.check_settings(one, env_state.capture(one), settings)


def test_a_path_is_a_setting_that_no_file_changes():
    one, other = Thing(1), Thing(1)
    one.folder, other.folder = "/etc", "/mine"
    with pytest.raises(env_state.NotData, match="folder is '/mine'; the saved one is '/etc'"):
        env_state.restore(other, env_state.capture(one))
