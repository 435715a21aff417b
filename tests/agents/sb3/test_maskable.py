"""sb3-contrib's MaskablePPO on text: no masked action is ever taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch.testing import assert_close

from agents.sb3 import LiveModel, text_vec_env
from agents.sb3.maskable import MaskableCausalLMPolicy


class Watch(VecEnvWrapper):
    """Counts the actions, and those that the masks of their moment forbid."""

    def __init__(self, venv):
        super().__init__(venv)
        self.taken, self.masked, self.early = 0, 0, 0

    def reset(self):
        return self.venv.reset()

    def step_async(self, actions):
        masks = get_action_masks(self.venv)
        self.taken += len(actions)
        self.masked += int((~masks[np.arange(len(actions)), actions]).sum())
        self.early += int((~masks).any(axis=1).sum())
        self.venv.step_async(actions)

    def step_wait(self):
        return self.venv.step_wait()


@pytest.fixture
def watched(text_kwargs, make_model):
    """``watched(...)``: an environment with stops 0 and 5, not before the fourth token."""

    def make(**changes):
        return Watch(text_vec_env(n_envs=16, **text_kwargs(stop=[5], min_new_tokens=4, **changes)))

    return make


SETTINGS = dict(n_steps=8, batch_size=64, n_epochs=2, seed=0, device="cpu", learning_rate=1e-2)


@pytest.mark.parametrize("policy", ["ours", "MultiInputPolicy"])
def test_maskable_ppo_takes_no_masked_action(policy, watched, make_model):
    env = watched(reference=make_model(seed=1), kl_coef=0.1 if policy == "ours" else 0.0)
    assert is_masking_supported(env)
    if policy == "ours":
        kwargs = {"model": LiveModel(make_model()), "banned_tokens": (6,)}
        agent = MaskablePPO(MaskableCausalLMPolicy, env, policy_kwargs=kwargs, **SETTINGS)
    else:
        agent = MaskablePPO(policy, env, **SETTINGS)
    agent.learn(1024)
    assert env.taken == 1024 and env.early > 300 and env.masked == 0
    evaluate_policy(agent, env, n_eval_episodes=32, deterministic=False, warn=False)
    assert env.taken > 1100 and env.masked == 0
    if policy == "ours":
        assert not get_action_masks(env)[:, 6].any()  # the bans of the policy that acts


def test_without_masks_they_are_taken(watched):
    """So the test above can fail."""
    env = watched()
    PPO("MultiInputPolicy", env, **SETTINGS).learn(512)
    assert env.masked > 30


def test_acting_and_learning_agree_under_any_masks(watched, make_model):
    env = watched()
    kwargs = {"model": LiveModel(make_model()), "temperature": 0.8}
    agent = MaskablePPO(MaskableCausalLMPolicy, env, policy_kwargs=kwargs, **SETTINGS)
    observation, rng = env.reset(), np.random.default_rng(0)
    for _ in range(20):
        masks = rng.random((16, 8)) < 0.5
        masks[:, 1] = True
        tensors = agent.policy.obs_to_tensor(observation)[0]
        actions, values, log_probs = agent.policy(tensors, action_masks=masks)
        assert masks[np.arange(16), actions].all()
        again = agent.policy.evaluate_actions(tensors, actions, torch.as_tensor(masks))
        assert_close(again[:2], (values, log_probs), rtol=0, atol=1e-4)
        distribution = agent.policy.get_distribution(tensors, masks)
        assert_close(distribution.log_prob(actions), log_probs, rtol=0, atol=1e-4)
        every = distribution.distribution.probs
        entropy = -torch.xlogy(every, every).sum(dim=1)
        assert_close(again[2], entropy, rtol=0, atol=1e-5)
        observation = env.step(rng.integers(0, 8, 16))[0]
