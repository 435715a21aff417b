"""Live objects in an environment's spec are shared, and never copied."""

from __future__ import annotations

import json
import sys
import types

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec, registry
from gymnasium.utils.env_checker import data_equivalence as equivalent
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from textenv import AdaptiveKL, Shared, TextGenVectorEnv
from textenv.rewards.library.haiku_reward import haiku
from textenv.sharing import with_names


def test_a_spec_of_string_ids_survives_json():
    env = gym.make("TextGen-v0", reward="length(3)", max_new_tokens=3)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec.kwargs == {"reward": "length(3)", "max_new_tokens": 3}
    again = gym.make(spec)
    assert equivalent(env.reset(seed=5), again.reset(seed=5))


class Uncopyable:
    name = "uncopyable"

    def __call__(self, episodes):
        return [1.0] * len(episodes)

    def __deepcopy__(self, memo):
        raise AssertionError("a live object was copied")


@pytest.fixture
def live_arguments(tokenizer, make_model):
    model = make_model()
    type(model).__deepcopy__ = lambda self, memo: pytest.fail("the model was copied")
    yield {
        "tokenizer": tokenizer,
        "prompts": [{"prompt": "a", "data": object()}],
        "reward": Uncopyable(),
        "reference": model,
        "kl_coef": AdaptiveKL(),
        "max_new_tokens": np.int64(3),
    }
    del type(model).__deepcopy__


def test_live_objects_in_a_spec_are_shared_and_never_copied(live_arguments):
    env = RecordEpisodeStatistics(TimeLimit(gym.make("TextGen-v0", **live_arguments), 2))
    for spec in (env.spec, env.unwrapped.spec, gym.make(env.spec).spec):
        for name in ("tokenizer", "reward", "reference", "kl_coef", "prompts"):
            assert spec.kwargs[name].value is live_arguments[name]
    again = gym.make(env.spec)
    assert isinstance(again, RecordEpisodeStatistics)
    env = again.unwrapped
    assert env.tokenizer is live_arguments["tokenizer"]
    assert env.task.reward.function is live_arguments["reward"]
    assert env.shaping.reference is live_arguments["reference"]
    assert env.shaping.schedule is live_arguments["kl_coef"]


def test_live_objects_in_a_vector_spec_are_shared_and_never_copied(live_arguments):
    mode = gym.vector.AutoresetMode.DISABLED
    envs = gym.make_vec(
        "TextGen-v0",
        num_envs=2,
        autoreset_mode=mode,
        device=torch.device("cpu"),
        **live_arguments,
    )
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    again = gym.make_vec(wrapped.spec)
    assert (again.num_envs, again.metadata["autoreset_mode"]) == (2, mode)
    assert again.unwrapped.task.reward.function is live_arguments["reward"]
    assert again.unwrapped.shaping.reference is live_arguments["reference"]


def test_an_id_of_ones_own_may_hold_live_objects(live_arguments):
    live_arguments.pop("kl_coef")
    gym.register(
        "Mine-v0",
        entry_point="textenv:TextGenEnv",
        vector_entry_point="textenv:TextGenVectorEnv",
        kwargs={
            key: Shared(value) if key in ("reference", "reward") else value
            for key, value in live_arguments.items()
            if key not in ("prompts", "max_new_tokens")
        }
        | {"prompts": ["a", "bc"], "max_new_tokens": 5},
    )
    try:
        env = gym.make("Mine-v0", max_new_tokens=2)
        assert env.observation_space["input_ids"].shape == (4,)
        assert env.unwrapped.shaping.reference is live_arguments["reference"]
        envs = gym.make_vec("Mine-v0", num_envs=2)
        assert isinstance(envs, TextGenVectorEnv)
        assert envs.shaping.reference is live_arguments["reference"]
        assert envs.reset(seed=1)[0]["input_ids"].shape == (2, 7)
    finally:
        del registry["Mine-v0"]


# --- specs as data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "written"),
    [
        (haiku, "textenv.rewards.library.haiku_reward:haiku"),
        (
            {haiku: 1.0, "length": 0.5},
            {"textenv.rewards.library.haiku_reward:haiku": 1.0, "length": 0.5},
        ),
        ([(haiku, 1.0)], [["textenv.rewards.library.haiku_reward:haiku", 1.0]]),
    ],
)
def test_functions_and_enumerations_are_text_in_json(reward, written):
    arguments = {"reward": reward, "max_new_tokens": np.int64(3), "stop": {"b", "a"}}
    env = gym.make("TextGen-v0", **arguments)
    envs = gym.make_vec(
        "TextGen-v0", num_envs=2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
        device=torch.device("cpu"), **arguments,
    )  # fmt: skip
    for spec in (env.spec, envs.spec):
        kwargs = json.loads(spec.to_json())["kwargs"]
        assert kwargs["reward"] == written and kwargs["stop"] == ["a", "b"]
    assert kwargs["autoreset_mode"] == "SameStep" and kwargs["device"] == "cpu"
    again = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert again.metadata["autoreset_mode"] == gym.vector.AutoresetMode.SAME_STEP
    assert equivalent(envs.reset(seed=5), again.reset(seed=5))
    steps = np.random.default_rng(0).integers(100, 1000, (6, 2))
    assert all(envs.step(a)[1].tolist() == again.step(a)[1].tolist() for a in steps)


def test_functions_that_another_process_could_not_import_stay_live(monkeypatch):
    def inside(episodes):
        return [0.0] * len(episodes)

    for function in (inside, lambda prompt, response: 0.0, Uncopyable(), haiku.__call__):
        assert with_names(function) is function
    script = types.SimpleNamespace(haiku=haiku, __spec__="of python -m")
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setattr(haiku, "__module__", "__main__")
    assert with_names(haiku) is haiku  # it would be looked for in another script
    with pytest.raises(TypeError, match="not JSON serializable"):
        gym.make("TextGen-v0", reward=inside).spec.to_json()
