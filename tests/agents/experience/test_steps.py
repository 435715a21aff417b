"""Single steps are recorded as they happened, in the three autoreset modes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch.testing import assert_close

from agents import MlpPolicy
from agents.experience.rollout import Rollout
from agents.experience.steps import StepCollector


@pytest.fixture
def collected(counting_envs):
    """``collected(mode, n_steps, rollouts)``: rollouts of the counting rows, and the policy."""

    def collect(mode: AutoresetMode, n_steps: int, rollouts: int):
        envs = counting_envs(mode)
        policy = MlpPolicy(envs.single_observation_space, envs.single_action_space, seed=0)
        policy.seed(1)
        collector = StepCollector(envs, seed=0)
        return [collector.collect(policy, n_steps) for _ in range(rollouts)], policy

    return collect


def transitions(rollouts: list[Rollout], row: int) -> list[tuple]:
    """What counts of one row, without the actions' randomness."""
    found = []
    for rollout in rollouts:
        for t in rollout.mask[row].nonzero()[:, 0]:
            observation = rollout.observations[row, t]
            noise = 0.01 * rollout.actions[row, t]
            found.append(
                (
                    *observation.tolist(),
                    round((rollout.rewards[row, t] - noise).item(), 4),
                    rollout.episode_end[row, t].item(),
                    round(rollout.values[row, t].item(), 4),
                    round(rollout.next_values[row, t].item(), 4),
                )
            )
    return found


def value(policy: MlpPolicy, *observation: float) -> float:
    return policy.predict_values(np.array([observation], np.float32)).item()


@pytest.mark.parametrize("row", [0, 1, 2])
def test_every_autoreset_mode_records_the_transitions_as_they_happened(mode, row, collected):
    rollouts, policy = collected(mode, n_steps=7, rollouts=2)
    length = (3, 4, 50)[row]
    base = 10.0 * (row + 1)
    found = transitions(rollouts, row)
    spent = 0 if mode != AutoresetMode.NEXT_STEP else 14 // (length + 1)
    assert len(found) == 14 - spent  # all steps count but those spent on resetting
    for i, transition in enumerate(found):
        episode, t = divmod(i, length)
        ended = t == length - 1
        following = value(policy, base + episode, t + 1)  # of the final observation, if it ends
        if ended and row == 0:
            following = 0.0
        assert transition == pytest.approx(
            (
                base + episode, t, base + episode + 0.1 * (t + 1), ended,
                value(policy, base + episode, t), following,
            ),
            abs=2e-4,
        )  # fmt: skip


def test_the_episodes_of_every_mode(mode, collected):
    rollouts, _ = collected(mode, n_steps=20, rollouts=1)
    lengths = rollouts[0].episodes["length"]
    each = [20 // 3, 20 // 4] if mode != AutoresetMode.NEXT_STEP else [20 // 4, 20 // 5]
    assert sorted(lengths) == [3] * each[0] + [4] * each[1]
    assert len(rollouts[0].episodes["return"]) == len(lengths)
    by_hand = rollouts[0].rewards[0, :3].sum().item()
    assert rollouts[0].episodes["return"][0] == pytest.approx(by_hand, abs=1e-4)


def test_the_steps_spent_on_resetting_are_masked(collected):
    (rollout,), _ = collected(AutoresetMode.NEXT_STEP, n_steps=12, rollouts=1)
    assert (~rollout.mask[0]).nonzero()[:, 0].tolist() == [3, 7, 11]
    assert (~rollout.mask[1]).nonzero()[:, 0].tolist() == [4, 9]
    assert rollout.mask[2].all()
    assert (rollout.rewards[~rollout.mask] == 0).all()
    assert not rollout.episode_end[~rollout.mask].any()
    assert rollout.num_steps == 36 - 5
    assert len(rollout.batch()) == 31


def test_a_rollout_counts_the_episodes_that_it_holds_a_part_of(mode, collected):
    """Row 0: episodes of 3 steps, row 1: of 4, row 2: one; each begun episode is one."""
    (first, second), _ = collected(mode, n_steps=7, rollouts=2)
    if mode == AutoresetMode.NEXT_STEP:  # 3 + reset + 3; 4 + reset + 2; then reset + 3 + reset + 2
        assert first.counts == (6 + 6 + 7, 2 + 2 + 1)
        assert second.counts == (5 + 6 + 7, 2 + 2 + 1)
    else:  # 3 + 3 + 1; 4 + 3; then 2 + 3 + 2; 1 + 4 + 2
        assert first.counts == (21, 3 + 2 + 1)
        assert second.counts == (21, 3 + 3 + 1)


def test_a_policy_is_told_where_episodes_begin(mode, counting_envs):
    """At t = 0 and nowhere else; its state does not outlive a rollout."""

    class Told(MlpPolicy):
        def act(self, observation, state=None, episode_start=None, deterministic=False):
            calls.append((state, observation[:, 1] == 0, np.array(episode_start)))
            return *super().act(observation, None, episode_start, deterministic)[:3], "state"

    calls: list[tuple] = []
    envs = counting_envs(mode)
    policy = Told(envs.single_observation_space, envs.single_action_space, seed=0)
    collector = StepCollector(envs, seed=0)
    for _ in range(3):
        collector.collect(policy, 8)
    assert [state for state, _, _ in calls] == [None, *["state"] * 7] * 3
    for _, begins, told in calls:
        assert begins.tolist() == told.tolist()


def test_boxes_are_clipped_on_their_way_to_the_environment_only():
    class Echo(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gym.spaces.Box(-0.1, 0.1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return np.zeros(1, np.float32), float(action[0]), False, False, {}

    envs = SyncVectorEnv([Echo] * 2)
    policy = MlpPolicy(envs.single_observation_space, envs.single_action_space, seed=0)
    policy.seed(0)
    rollout = StepCollector(envs).collect(policy, 10)
    assert rollout.actions.abs().max() > 0.5
    assert_close(rollout.rewards, rollout.actions[..., 0].clamp(-0.1, 0.1))
    normal = torch.distributions.Normal(0.0, 1.0)
    means = policy.actor(torch.zeros(1, 1))[0]
    assert_close(rollout.log_probs, normal.log_prob(rollout.actions[..., 0] - means).detach())


def test_a_rollout_spent_on_resetting_is_followed_by_another(make_one_step):
    """With NEXT_STEP and episodes of one step, every second step resets all rows."""
    envs = make_one_step(AutoresetMode.NEXT_STEP)
    policy = MlpPolicy(envs.single_observation_space, envs.single_action_space, seed=0)
    collector = StepCollector(envs, seed=0)
    for _ in range(4):
        rollout = collector.collect(policy, 1)
        assert rollout.num_steps == 2 and rollout.whole_episodes


@pytest.fixture
def make_one_step():
    """``make_one_step(mode)``: two rows whose episodes have a single step."""

    class OneStep(gym.Env):
        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), float(action), True, False, {}

    return lambda mode: SyncVectorEnv([OneStep] * 2, autoreset_mode=mode)
