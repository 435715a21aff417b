"""The `VecEnv` over Gymnasium's vector environments equals `DummyVecEnv` over their rows."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from agents import PPO
from agents.sb3 import SB3VecEnv, text_vec_env
from textenv import AdaptiveKL

ROWS, STEPS = 3, 70
WORKING = [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.fixture(params=WORKING, ids=lambda mode: mode.name)
def working(request) -> AutoresetMode:
    """Each autoreset mode that stable-baselines3 can use in turn."""
    return request.param


def assert_same(a, b) -> None:
    """Equal in structure, types and numbers; log-probabilities to rounding."""
    if isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for pair in zip(a, b, strict=True):
            assert_same(*pair)
    elif isinstance(a, float):
        assert type(b) is float and a == pytest.approx(b, rel=1e-5, abs=1e-5)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-6)
    else:
        assert type(a) is type(b) and a == b


def assert_equal_steps(ours, theirs, actions) -> tuple[int, int]:
    """Returns how many episodes ended, and how many of them were cut short."""
    for env in (ours, theirs):
        env.seed(7)
    assert_same(ours.reset(), theirs.reset())
    assert_same(ours.reset_infos, theirs.reset_infos)
    ends, cuts = 0, 0
    for _ in range(STEPS):
        chosen = actions()
        mine, expected = ours.step(chosen), theirs.step(chosen)
        for pair in zip(mine, expected, strict=True):
            assert_same(*pair)
        assert_same(ours.reset_infos, theirs.reset_infos)
        ends += int(mine[2].sum())
        cuts += sum(info["TimeLimit.truncated"] for info in mine[3])
    return ends, cuts


@pytest.mark.parametrize(("array", "least"), [("numpy", 3), ("torch", 0)])
def test_text_equals_dummy_vec_env(array, least, working, make_text_envs, make_model, text_kwargs):
    kwargs = dict(stop=[5], reference=make_model(seed=1), min_new_tokens=least)
    envs = make_text_envs(ROWS, autoreset_mode=working, array=array, **kwargs)
    singles = [lambda: gym.make("TextGen-v0", **text_kwargs(**kwargs))] * ROWS
    rng = np.random.default_rng(0)
    ends, _ = assert_equal_steps(
        SB3VecEnv(envs), DummyVecEnv(singles), lambda: rng.integers(0, 8, ROWS)
    )
    assert ends > 40


def test_other_environments_equal_dummy_vec_env(working, corridor):
    envs = SyncVectorEnv([corridor] * ROWS, autoreset_mode=working)
    rng = np.random.default_rng(0)
    ends, cuts = assert_equal_steps(
        SB3VecEnv(envs), DummyVecEnv([corridor] * ROWS), lambda: rng.integers(0, 2, ROWS)
    )
    assert ends > cuts > 2


def test_infos_of_wrappers_come_through(working):
    """`RecordEpisodeStatistics` of Gymnasium gives nested columns."""
    make = lambda: gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))  # noqa: E731
    ours = SB3VecEnv(SyncVectorEnv([make] * ROWS, autoreset_mode=working))
    theirs = DummyVecEnv([make] * ROWS)
    for env in (ours, theirs):
        env.seed(0)
        env.reset()
    found = 0
    for _ in range(40):
        mine, expected = (env.step(np.ones(ROWS, int))[3] for env in (ours, theirs))
        for a, b in zip(mine, expected, strict=True):
            assert ("episode" in a) == ("episode" in b)
            if "episode" in a:
                found += 1
                assert a["episode"]["r"] == b["episode"]["r"] and a["episode"]["l"] > 5
    assert found >= 6


def test_next_step_is_refused(make_text_envs):
    with pytest.raises(ValueError, match=r"NEXT_STEP.*SAME_STEP"):
        SB3VecEnv(make_text_envs(2))


def test_observations_keep_their_memory(text_kwargs):
    envs = gym.make_vec(
        "TextGen-v0", num_envs=2, copy=False, autoreset_mode="disabled", **text_kwargs()
    )
    env = SB3VecEnv(envs)
    before = env.reset()
    length = before["attention_mask"].sum()
    env.step(np.array([1, 1]))
    assert before["attention_mask"].sum() == length


# --- attributes and methods ---------------------------------------------------------------------


def test_attributes_of_one_native_environment(make_text_envs):
    env = VecMonitor(SB3VecEnv(make_text_envs(3, autoreset_mode="same_step")))
    env.reset()
    assert env.get_attr("max_new_tokens") == [5, 5, 5]
    assert env.get_attr("prompt_index") == list(env.unwrapped.prompt_index)  # one for each row
    assert env.get_attr("prompts", indices=[1]) == [env.unwrapped.prompts]  # not split
    masks = env.env_method("action_masks", indices=[0, 2])
    assert len(masks) == 2 and masks[0].shape == (8,)
    assert env.has_attr("action_masks") and not env.has_attr("nothing_of_this_name")
    env.set_attr("note", 4)
    assert env.get_attr("note") == [4, 4, 4]
    with pytest.raises(ValueError, match="only be set for all"):
        env.set_attr("note", 4, indices=[0])
    assert env.env_is_wrapped(Monitor) == [False] * 3


def test_attributes_of_single_environments(corridor):
    make = lambda: Monitor(corridor())  # noqa: E731
    env = SB3VecEnv(SyncVectorEnv([make] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    env.reset()
    env.set_attr("note", 3, indices=[2])
    assert env.get_attr("note", indices=2) == [3]
    with pytest.raises(AttributeError):
        env.get_attr("note", indices=0)
    assert env.env_method("get_wrapper_attr", "position", indices=[0, 1]) == [0, 0]
    assert env.env_is_wrapped(Monitor, indices=[0, 1]) == [True, True]


def test_a_wrapper_of_the_vector_is_found(make_text_envs):
    wrapper = gym.wrappers.vector.RecordEpisodeStatistics
    env = SB3VecEnv(wrapper(make_text_envs(2, autoreset_mode="same_step")))
    assert env.env_is_wrapped(wrapper) == [True, True]
    assert env.env_is_wrapped(Monitor) == [False, False]
    assert env.get_attr("return_queue")[0] is env.env.return_queue


def test_seeds_and_options_hold_for_one_reset(make_text_envs):
    env = SB3VecEnv(make_text_envs(3, autoreset_mode="same_step"))
    env.seed(3)
    first = env.reset()["input_ids"]
    assert not np.array_equal(first, env.reset()["input_ids"])
    env.seed(3)
    assert np.array_equal(first, env.reset()["input_ids"])
    env.set_options([{"prompt_index": index} for index in (2, 0, 1)])
    env.reset()
    assert env.unwrapped.prompt_index.tolist() == [2, 0, 1]
    make = lambda: gym.make("CartPole-v1")  # noqa: E731
    other = SB3VecEnv(SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    other.set_options([{"low": -0.1}, {"low": -0.2}])
    with pytest.raises(ValueError, match="one mapping"):
        other.reset()
    other.set_options({"low": 0.04, "high": 0.05})
    assert (other.reset() >= 0.04).all()


def test_text_vec_env_refuses_what_would_be_wrong_in_silence(text_kwargs, make_model):
    with pytest.raises(ValueError, match="'CartPole-v1' is no text environment"):
        text_vec_env("CartPole-v1")
    with pytest.raises(ValueError, match="adapts once a rollout"):
        text_vec_env(**text_kwargs(reference=make_model(), kl_coef=AdaptiveKL(target=3.0)))


# --- the environment of an agent ----------------------------------------------------------------


def test_get_env_steps_the_environment_of_an_agent(make_agent):
    agent = make_agent("PPO", 4)
    env = agent.get_env()
    assert isinstance(env, SB3VecEnv) and env is agent.get_env() and env.env is agent.env
    observation, returns, ends = env.reset(), np.zeros(4), 0
    while not ends:  # the loop of stable-baselines3's documentation
        actions, _ = agent.predict(observation, deterministic=True)
        observation, rewards, dones, infos = env.step(actions)
        returns += rewards
        ends += int(dones.sum())
    assert ends == 4  # whole episodes end together
    assert returns.tolist() == pytest.approx([info["score"] for info in infos])
    agent.learn(20)


def test_get_env_of_a_mode_that_cannot_be_stepped(corridor):
    envs = SyncVectorEnv([corridor] * 2)  # NEXT_STEP
    agent = PPO("MlpPolicy", envs, n_steps=5, seed=0)
    assert agent.get_env().num_envs == 2
    with pytest.raises(ValueError, match="NEXT_STEP"):
        agent.get_env().reset()
