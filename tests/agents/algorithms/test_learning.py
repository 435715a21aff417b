"""Every algorithm learns: a word, a corridor, a continuous action."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import agents.algorithms
from agents import PPO, REINFORCE, TRPO, ActorCritic


def learn_to_say_b(agent, updates: int) -> tuple[float, float]:
    """The mean score of a rollout before and after learning on text of four tokens."""
    before = np.mean(agent.collect().episodes["score"])
    agent.learn(updates * 64 * 4)
    return before, np.mean(agent.collect().episodes["score"])


PLAIN = ("PPO", "GRPO")  # the others learn in the slow run


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in PLAIN else [pytest.mark.slow])
        for name in agents.algorithms.__all__
    ],
)
def test_it_learns_to_say_a_wanted_word(name, make_agent):
    """Reward: the share of "b" in a response of four tokens. At random it is about 1 in 8."""
    agent = make_agent(
        name, 64, env={"stop": None, "max_new_tokens": 4, "min_new_tokens": 4},
        model={"spread": 0.1}, **({"target_kl": 0.05} if name == "TRPO" else {}),
    )  # fmt: skip
    before, after = learn_to_say_b(agent, 20 if name == "TRPO" else 40)
    assert before < 0.3 and after > 0.8


@pytest.mark.slow
def test_it_learns_step_by_step_with_a_kl_to_the_reference_in_its_loss(
    make_agent, make_model, wrapped
):
    """A wrapped environment is driven by steps, and still hands its reference to the loss."""
    envs = wrapped(
        64, max_new_tokens=4, min_new_tokens=4, autoreset_mode="same_step",
        reference=make_model(seed=1, spread=0.1),
    )  # fmt: skip
    agent = make_agent("REINFORCE", envs=envs, model={"spread": 0.1}, n_steps=4, kl_loss_coef=0.01)
    before, after = learn_to_say_b(agent, 40)
    assert before < 0.3 and after > 0.8


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        pytest.param(REINFORCE, {}, marks=pytest.mark.slow),
        pytest.param(ActorCritic, {"vf_coef": 0.5}, marks=pytest.mark.slow),
        (PPO, {"vf_coef": 0.5, "batch_size": 64, "n_epochs": 4}),
        (TRPO, {}),
    ],
)
def test_it_learns_to_walk_down_a_corridor(kind, kwargs, corridor):
    envs = SyncVectorEnv([corridor] * 8)
    agent = kind("MlpPolicy", envs, n_steps=32, learning_rate=1e-2, gamma=0.95, seed=0, **kwargs)
    agent.learn(256 * 30)
    observation, _ = envs.reset(seed=0)
    for _ in range(5):
        actions, _ = agent.predict(observation, deterministic=True)
        observation, rewards, terminated, _, _ = envs.step(actions)
    assert terminated.all() and (rewards > 0.5).all()


def test_it_learns_a_continuous_action():
    class Aim(gym.Env):
        """One step: the reward is −(a − 0.6)²."""

        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), -float((action[0] - 0.6) ** 2), True, False, {}

    envs = SyncVectorEnv([Aim] * 32, autoreset_mode="SameStep")
    agent = PPO(
        "MlpPolicy", envs, n_steps=8, learning_rate=1e-2, seed=0, vf_coef=0.5,
        batch_size=None, policy_kwargs={"log_std_init": -1.0},
    ).learn(256 * 25)  # fmt: skip
    action, _ = agent.predict(np.zeros(1, np.float32), deterministic=True)
    assert action == pytest.approx(0.6, abs=0.1)
