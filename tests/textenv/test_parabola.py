"""Parabola-v0: its numbers, both environment checks, and every algorithm up to its peak."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import agents.algorithms
from textenv import ParabolaEnv


def test_what_numbers_are_worth():
    """The queries of the first chapter, and the peak."""
    env = gym.make("Parabola-v0")
    for x, reward in ((4.0, 6.0), (0.0, 6.0), (-2.0, -6.0), (2.0, 10.0)):
        observation, info = env.reset()
        assert observation == 0 and info == {}
        answer = env.step(np.array([x], np.float32))
        assert answer[1:] == (reward, True, False, {}) and answer[0] == 0


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")  # x keeps its own scale
def test_gymnasiums_and_sb3s_environment_checks():
    check_env(gym.make("Parabola-v0").unwrapped)
    check_env_of_sb3(ParabolaEnv())


def test_a_wrong_action_is_refused():
    env = ParabolaEnv()
    env.reset()
    for action in (1.0, np.zeros(2), np.zeros((1, 1))):
        with pytest.raises(ValueError, match="must be one number"):
            env.step(action)
    with pytest.raises(gym.error.ResetNeeded):
        gym.make("Parabola-v0").step(np.zeros(1, np.float32))


def make_agent(name: str, **kwargs):
    """A Normal with σ = 1 whose mean, a bias, begins at −2."""
    if name in ("GRPO", "RLOO"):
        kwargs = {"n_steps": 1, "group_size": 8} | kwargs
    policy_kwargs = {"net_arch": (), "learn_std": False, "log_std_init": 0.0}
    agent = getattr(agents.algorithms, name)(
        "MlpPolicy", "Parabola-v0", seed=0, **{"n_envs": 64, "n_steps": 1} | kwargs,
        policy_kwargs=policy_kwargs,
    )  # fmt: skip
    torch.nn.init.constant_(agent.policy.actor[-1].bias, -2.0)
    return agent


QUICK = ("REINFORCE", "GRPO", "TRPO")  # the others learn in the slow run


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in agents.algorithms.__all__
    ],
)
def test_every_algorithm_finds_the_peak(name):
    agent = make_agent(name, learning_rate=0.05)
    assert agent.predict(np.zeros(1, np.float32), deterministic=True)[0] == pytest.approx(-2)
    agent.learn(64 * 200)
    found, _ = agent.predict(np.zeros(1, np.float32), deterministic=True)
    assert found == pytest.approx(2, abs=0.3)


def test_the_mean_gradient_is_that_of_the_expected_reward():
    """∇μ J = −2 (μ − 2) = 8 at μ = −2, from 40,000 guesses, whatever the observation's weight."""
    agent = make_agent(
        "REINFORCE", n_envs=100, n_steps=400, max_grad_norm=None,
        baseline_momentum=None, normalize_advantage=False,
    )  # fmt: skip
    agent.update(agent.collect())
    (weight, bias) = agent.policy.actor.parameters()
    assert weight.grad == 0
    standard_error = (215 / 40_000) ** 0.5  # 215 = Var((x − μ) R(x)) at μ = −2
    assert -bias.grad.item() == pytest.approx(8, abs=4 * standard_error)


def test_steps_that_only_reset_teach_nothing():
    """Gymnasium's default autoreset mode, NEXT_STEP: every second step is waited for."""
    envs = gym.make_vec("Parabola-v0", num_envs=8)
    agent = agents.REINFORCE("MlpPolicy", envs, n_steps=1, seed=0)
    for taken in (8, 16, 24):
        agent.update(agent.collect())
        assert agent.num_timesteps == taken
