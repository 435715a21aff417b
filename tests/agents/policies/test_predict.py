"""`predict`, as stable-baselines3 has it: one observation or many, with and without a state."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.evaluation import evaluate_policy
from torch.testing import assert_close

from agents import PPO


@pytest.fixture
def agent(make_text_envs, make_model) -> PPO:
    return PPO(
        "CausalLMPolicy", make_text_envs(6), seed=0, learning_rate=1e-2,
        policy_kwargs={"model": make_model()},
    )  # fmt: skip


def test_predict_for_one_observation_and_for_many(agent, make_text_envs):
    observation, _ = make_text_envs(6).reset(seed=0)
    many, state = agent.predict(observation, deterministic=True)
    assert many.shape == (6,) and many.dtype == np.int64 and state is not None
    for row in range(6):
        one, _ = agent.predict({k: v[row] for k, v in observation.items()}, deterministic=True)
        assert one.shape == () and one == many[row]


@pytest.mark.parametrize("keep", [True, False], ids=["with the state", "without it"])
def test_predict_with_and_without_its_state_writes_the_same(agent, text_kwargs, keep):
    env = gym.make("TextGen-v0", **text_kwargs())
    texts = []
    for keeps in (keep, False):
        observation, _ = env.reset(seed=4)
        state, ended = None, False
        while not ended:
            action, state = agent.predict(observation, state if keeps else None, deterministic=True)
            observation, _, ended, _, info = env.step(action)
        texts.append(info["response"])
    assert texts[0] == texts[1] and texts[0]


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_episode_starts_of_stable_baselines3_do_no_harm(
    mode, array, agent, make_text_envs, next_logits
):
    """It says that an episode starts where the one before it has ended. With NEXT_STEP that is a
    step too early: the observation is still the old episode's last one."""
    envs = make_text_envs(5, autoreset_mode=mode, array=array, stop=[5])
    observation, _ = envs.reset(seed=0)
    state, start, ends = None, np.ones(5, bool), 0
    for _ in range(30):
        actions, state = agent.predict(observation, state, start, deterministic=True)
        wanted = next_logits(agent.policy, observation).argmax(dim=1)
        running = getattr(observation, "running", None)  # the actions of others are ignored
        counts = np.ones(5, bool) if running is None else running.numpy()
        assert counts.all() or mode == AutoresetMode.NEXT_STEP
        assert actions[counts].tolist() == wanted.numpy()[counts].tolist()
        actions = np.random.default_rng(ends).integers(0, 8, 5)  # episodes of all lengths
        given = torch.from_numpy(actions) if array == "torch" else actions
        observation, _, terminated, truncated, _ = envs.step(given)
        start = np.asarray(terminated | truncated)
        ends += int(start.sum())
    assert ends > 15


def test_evaluate_policy_of_stable_baselines3_equals_a_hand_loop(agent, text_kwargs):
    env = gym.make(
        "TextGen-v0",
        **text_kwargs(reward=lambda episodes: [e.prompt_ids.sum() + 0.5 for e in episodes]),
    )
    env.reset(seed=1)
    rewards, lengths = evaluate_policy(
        agent, env, n_eval_episodes=5, deterministic=True, return_episode_rewards=True, warn=False
    )
    env.reset(seed=1)
    for reward, length in zip(rewards, lengths, strict=True):
        observation, _ = env.reset()
        ended, total, steps = False, 0.0, 0
        while not ended:
            action, _ = agent.predict(observation, deterministic=True)
            observation, step_reward, ended, _, _ = env.step(action)
            total, steps = total + step_reward, steps + 1
        assert reward == pytest.approx(total, abs=1e-6) and length == steps
    assert len(set(rewards)) > 1


def test_no_state_means_the_weights_of_now(agent, make_text_envs, next_logits):
    observation, _ = make_text_envs(6).reset(seed=0)

    def log_probs_of_the_likeliest() -> torch.Tensor:
        return agent.policy.act(observation, deterministic=True)[1]

    before = log_probs_of_the_likeliest()
    agent.update(agent.collect())
    after = log_probs_of_the_likeliest()
    assert (before - after).abs().max() > 1e-3
    own = next_logits(agent.policy, observation).log_softmax(-1).amax(dim=1)
    assert_close(after, own, rtol=0, atol=1e-4)
