"""Environments that say where they are go on there; of all others the state is unknown."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stateful import STATEFUL, StatefulCartPole

from agents.experience import env_state
from agents.experience.env_state import UnknownState
from agents.saving.resume import from_json, to_json
from textenv import TextGenEnv


def through_json(state):
    tensors: dict[str, torch.Tensor] = {}
    return from_json(json.loads(json.dumps(to_json(state, tensors))), tensors)


def text(**arguments):
    return lambda: TextGenEnv(max_new_tokens=6, **arguments)


def native(**arguments):
    return gym.make_vec("TextGen-v0", num_envs=4, max_new_tokens=6, **arguments)


ENVIRONMENTS = {
    "made by its id": lambda: gym.make_vec(STATEFUL, num_envs=3),
    "wrapped": lambda: SyncVectorEnv(
        [lambda: wrappers.RecordEpisodeStatistics(gym.make(STATEFUL))] * 2,
        autoreset_mode=AutoresetMode.SAME_STEP,
    ),
    "text": native,
    "groups": lambda: native(group_size=2, autoreset_mode="SAME_STEP"),
    "wrapped text": lambda: wrappers.vector.RecordEpisodeStatistics(native()),
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
        for infos in (ours[4], theirs[4]):
            for episode in (infos, infos.get("final_info", {})):
                episode.get("episode", {}).pop("t", None)  # seconds
        assert str(ours[4]) == str(theirs[4])


def test_a_reset_by_the_next_step_is_not_forgotten():
    one, other = (gym.make_vec(STATEFUL, num_envs=2) for _ in range(2))
    one.reset(seed=0)
    ended = np.zeros(2, bool)
    while not ended.any():
        _, _, terminated, truncated, _ = one.step(np.zeros(2, int))
        ended = terminated | truncated
    other.reset(seed=1)
    env_state.restore(other, through_json(env_state.capture(one)))
    np.testing.assert_array_equal(one.step(np.ones(2, int))[0], other.step(np.ones(2, int))[0])


def test_a_state_is_a_copy():
    env = gym.make(STATEFUL)
    env.reset(seed=0)
    env.unwrapped.state_dict = None  # an attribute of the object is not asked
    held = {"steps": np.zeros(1)}
    cls = type("Holds", (StatefulCartPole,), {"state_dict": lambda self: held})
    state = env_state.capture(cls())
    held["steps"] += 1
    assert state == [["Holds", {"steps": [0.0]}]]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: gym.make_vec("CartPole-v1", num_envs=2), "CartPoleVectorEnv"),
        (lambda: gym.make_vec("Pendulum-v1", num_envs=2), "PendulumEnv"),
        (lambda: SyncVectorEnv([lambda: gym.make(STATEFUL), lambda: gym.make("CartPole-v1")]),
         "CartPoleEnv"),
        (lambda: wrappers.NormalizeObservation(gym.make(STATEFUL)), "NormalizeObservation"),
        (lambda: wrappers.vector.NormalizeReward(gym.make_vec(STATEFUL, num_envs=2)),
         "NormalizeReward"),
        (lambda: type("Own", (wrappers.TimeLimit,), {})(gym.make(STATEFUL), 9), "Own"),
    ],
)  # fmt: skip
def test_what_cannot_say_where_it_is_is_named(make, named):
    with pytest.raises(UnknownState, match=f"^{named} has no state_dict and load_state_dict"):
        env_state.capture(make())


def test_the_state_of_another_environment_is_refused():
    state = env_state.capture(gym.make_vec(STATEFUL, num_envs=2))
    for other in (gym.make_vec(STATEFUL, num_envs=3), native()):
        with pytest.raises(ValueError, match="This one is made of"):
            env_state.restore(other, state)


def test_data_of_every_kind_survives_a_file():
    data = {
        "plain": [1, 2.5, True, None, "text", 2**90], "nested": {"a": {"b": [[]]}},
        "arrays": [np.ones(4, kind) for kind in ("int64", "float16", "bool", "uint32")],
        "texts": np.array(["x", "yz"]), "big": np.ones(3, ">f4"),
        "objects": np.array(["x", None], object), "tensor": torch.arange(6.0).reshape(2, 3).T,
        "scalars": [np.float32(0.1), np.int64(3), np.bool_(True)],
    }  # fmt: skip
    again = through_json(data)
    for name in ("plain", "nested", "scalars"):
        assert again[name] == data[name]
    assert [type(value) for value in again["scalars"]] == [np.float32, np.int64, np.bool_]
    for name in ("texts", "big", "objects"):
        np.testing.assert_array_equal(again[name], data[name])
        assert again[name].dtype == data[name].dtype
    for one, other in zip(again["arrays"], data["arrays"], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert torch.equal(again["tensor"], data["tensor"])


@pytest.mark.parametrize("value", [b"x", {1: 2}, {1}, object(), np.array([object()])])
def test_what_is_no_data_is_refused(value):
    with pytest.raises(UnknownState, match="which cannot be saved as data"):
        to_json({"part": [value]}, {})


class Stateless:
    """A tool that cannot say what state it is in."""

    def reset(self, episode):
        pass

    def __call__(self, episode):
        return "a"


def test_a_dialogue_whose_tool_has_no_state_is_unknown(make_text_envs):
    env = make_text_envs(2, respond=Stateless, max_turns=2)
    env.reset(seed=0)
    with pytest.raises(env_state.UnknownState, match="'Stateless' has no state_dict"):
        env_state.capture(env)
