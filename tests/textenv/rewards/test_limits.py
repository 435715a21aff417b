"""Time limits and repetition: a reward that hangs is named, one that fails is never scored 0."""

from __future__ import annotations

import threading

import gymnasium as gym
import numpy as np
import pytest

from textenv import TextGenEnv
from textenv.episode import Episode
from textenv.rewards import RewardError, resolve_reward, score_within_limits

EPISODES = [
    Episode(f"prompt {i}", f"response {i}", np.array([1]), np.array([2]), "stop", {})
    for i in range(3)
]


@pytest.fixture
def released():
    """An event for which a reward waits; it is set at the end, so that no thread stays behind."""
    event = threading.Event()
    yield event
    event.set()


def test_a_reward_in_time_is_as_without_a_limit():
    reward = resolve_reward({"length(3)": 1.0, "keyword(response)": 0.5})
    plain, limited = (score_within_limits(reward, EPISODES, limit) for limit in (None, 5.0))
    np.testing.assert_array_equal(plain[0], limited[0])
    assert plain[1].keys() == limited[1].keys() == {"length(3)", "keyword(response)"}


def test_a_hang_is_named_with_its_episode(released):
    def hangs_at_one(prompt, response):
        if prompt == "prompt 1":
            released.wait()
        return 0.0

    with pytest.raises(RewardError, match=r"reward_timeout=0\.1 s.*episode 1, with prompt") as e:
        score_within_limits(resolve_reward(hangs_at_one), EPISODES, 0.1)
    assert "threading.py, line" in str(e.value)

    def hangs_in_a_batch(episodes):
        for _episode in reversed(episodes):
            released.wait()

    with pytest.raises(RewardError, match="episode 2, with prompt 'prompt 2'"):
        score_within_limits(resolve_reward(hangs_in_a_batch), EPISODES, 0.1)
    with pytest.raises(RewardError, match="it was given 3 episodes, the first with"):
        score_within_limits(resolve_reward(lambda episodes: released.wait()), EPISODES, 0.1)


def test_an_error_is_raised_from_the_thread():
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        score_within_limits(resolve_reward(lambda episodes: 1 / 0), EPISODES, 5.0)


def test_a_reward_that_fails_is_asked_again_if_wished():
    calls = []

    def unsure(episodes):
        calls.append(len(episodes))
        if len(calls) < 3:
            raise ConnectionError("away")
        return [1.0, 2.0, 3.0]

    with pytest.raises(RewardError, match="away"):
        score_within_limits(resolve_reward(unsure), EPISODES, retries=1)
    assert calls == [3, 3]
    scores, _ = score_within_limits(resolve_reward(unsure), EPISODES, retries=1)
    assert scores.tolist() == [1.0, 2.0, 3.0]


def test_the_environments_have_both_limits(released):
    def hangs(prompt, response):
        released.wait()
        return 0.0

    env = gym.make("TextGen-v0", reward=hangs, max_new_tokens=1, reward_timeout=0.1)
    env.reset(seed=0)
    with pytest.raises(RewardError, match="has not answered within"):
        env.step(5)
    for name, value in (("reward_timeout", 0), ("reward_timeout", -1.0), ("reward_retries", -1)):
        with pytest.raises(ValueError, match=f"{name}="):
            TextGenEnv(**{name: value})
