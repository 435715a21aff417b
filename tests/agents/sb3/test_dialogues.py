"""stable-baselines3 drives dialogues as they are, alone and in processes of its own."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from agents.sb3 import SB3CausalLMPolicy, text_vec_env


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_it_learns_the_game_with_its_own_algorithms(algorithm):
    env = text_vec_env("GuessNumber-v0", n_envs=8, reference="bundled", kl_coef=0.02)
    ratios = []

    class Looking(SB3CausalLMPolicy):
        def evaluate_actions(self, obs, actions, action_masks=None):
            values, log_probs, entropy = super().evaluate_actions(obs, actions)
            ratios.append((log_probs.detach(), model.rollout_buffer.log_probs.copy()))
            return values, log_probs, entropy

    steps = {"batch_size": 64, "n_epochs": 1} if algorithm is PPO else {}
    model = algorithm(Looking, env, n_steps=8, seed=0, **steps)
    model.learn(64)
    found, acted = ratios[0]
    assert sorted(found.tolist()) == pytest.approx(sorted(acted.flatten().tolist()), abs=1e-4)
    legal = set(np.flatnonzero(env.action_space.legal))
    assert set(model.rollout_buffer.actions.flatten().astype(int)) <= legal and len(legal) == 10
    actions, _ = model.predict(env.reset(), deterministic=True)
    assert set(actions.tolist()) <= legal


def test_a_saved_model_keeps_to_legal_tokens(tmp_path):
    env = text_vec_env("GuessNumber-v0", n_envs=2)
    PPO(SB3CausalLMPolicy, env, n_steps=8, batch_size=8, seed=0).save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", env=env)
    assert len(again.policy.lm.sampling.banned_tokens) == int(env.action_space.n) - 10


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_a_live_responder_works_in_other_processes(kind):
    task = {"respond": lambda episode: "x" * len(episode.turns), "max_turns": 3, "prompts": ["a"],
            "reward": "length(3)", "max_turn_tokens": 1, "max_new_tokens": 3}  # fmt: skip
    how = {"start_method": "fork"} if kind is SubprocVecEnv else {}  # pytest's module is no script
    env = make_vec_env(
        "TextGen-v0", n_envs=2, vec_env_cls=kind, env_kwargs=task, vec_env_kwargs=how
    )
    env.reset()
    replies = [[info.get("reply") for info in env.step(np.array([40, 41]))[3]] for _ in range(3)]
    assert replies == [["x", "x"], ["xx", "xx"], ["xxx", "xxx"]]
    env.close()


def test_gymnasium_in_other_processes():
    env = gym.make_vec("GuessNumber-v0", num_envs=2, vectorization_mode="async")
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"input_ids", "attention_mask", "own_tokens"}
    env.step(np.array([25, 26]))
    env.close()


def test_a_loop_of_single_steps_evaluates_what_acted():
    """As one-file programs do it: observations of single steps, all in one batch."""
    from agents import CausalLMPolicy
    from agents.sb3.policy import _steps

    env = gym.make_vec("GuessNumber-v0", num_envs=6)
    policy = CausalLMPolicy(env.single_observation_space, env.single_action_space)
    observation, _ = env.reset(seed=0)
    seen, chosen, acted, state = [], [], [], None
    for _ in range(6):
        actions, log_probs, _, state = policy.act(observation, state)
        seen.append({key: torch.as_tensor(value).clone() for key, value in observation.items()})
        chosen.append(actions)
        acted.append(log_probs)
        observation, *_ = env.step(actions.numpy())
    steps = {key: torch.cat([one[key] for one in seen]) for key in seen[0]}
    found = policy.evaluate(_steps(steps, torch.cat(chosen))).log_probs[:, 0]
    torch.testing.assert_close(found.detach(), torch.cat(acted), rtol=0, atol=1e-4)
