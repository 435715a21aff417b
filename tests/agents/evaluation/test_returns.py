"""Returns of whole episodes, against a hand loop, in every autoreset mode."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from agents.evaluation import evaluate_returns


class Draws(gym.Env):
    """Episodes of a drawn length, whose rewards are drawn too and grow with the action."""

    observation_space = gym.spaces.Box(-1, 100, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 5))
        return np.array([self.left, 0], np.float32), {}

    def step(self, action):
        self.left -= 1
        reward = float(self.np_random.normal() + 10 * action)
        return np.array([self.left, 1], np.float32), reward, self.left == 0, False, {}


class Agent:
    """Acts on the observation, and notes what it is told of the beginnings of episodes."""

    def __init__(self):
        self.told: list[tuple] = []

    def predict(self, observation, state, episode_start, deterministic):
        begins = observation[:, 1] == 0
        self.told.append((begins, np.array(episode_start), state))
        return (observation[:, 0] % 2).astype(int), len(self.told)


def by_hand(seed: int, episodes: int) -> list[float]:
    """One environment after the other, each reset when its episode has ended."""
    env = Draws()
    observation, _ = env.reset(seed=seed)
    returns = []
    for _ in range(episodes):
        total, ended = 0.0, False
        while not ended:
            observation, reward, ended, _, _ = env.step(int(observation[0] % 2))
            total += reward
        returns.append(total)
        observation, _ = env.reset()
    return returns


@pytest.mark.parametrize(("rows", "n_episodes"), [(1, 4), (3, 12), (3, 10), (4, 3)])
def test_returns_are_those_of_a_hand_loop(mode, rows, n_episodes):
    """How many episodes each row gives is fixed beforehand, or short ones would be too many."""
    envs = SyncVectorEnv([Draws] * rows, autoreset_mode=mode)
    agent = Agent()
    found = evaluate_returns(agent, envs, n_episodes, seed=4)
    each = [(n_episodes + row) // rows for row in range(rows)]
    wanted = [value for row in range(rows) for value in by_hand(4 + row, each[row])]
    assert found == pytest.approx(np.array(wanted), rel=1e-6)
    assert len(set(found.round(6))) == n_episodes
    assert [state for _, _, state in agent.told] == [None, *range(1, len(agent.told))]


def test_a_policy_is_told_where_episodes_begin(mode):
    agent = Agent()
    evaluate_returns(agent, SyncVectorEnv([Draws] * 3, autoreset_mode=mode), 12, seed=4)
    for begins, told, _ in agent.told:
        assert told.tolist() == begins.tolist()


def test_actions_are_drawn_where_it_is_asked_for(on_cartpole):
    from agents import PPO

    agent = on_cartpole(PPO, policy_kwargs={"net_arch": [4]})
    envs = gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
    greedy = [evaluate_returns(agent, envs, 4, seed=1) for _ in range(2)]
    drawn = [evaluate_returns(agent, envs, 4, seed=1, deterministic=False) for _ in range(2)]
    assert (greedy[0] == greedy[1]).all() and (drawn[0] != drawn[1]).any()
