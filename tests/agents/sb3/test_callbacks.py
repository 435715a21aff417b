"""Callbacks of stable-baselines3, lists of them, and plain functions: what each of them sees."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import PPO
from agents.sb3 import SB3VecEnv, text_vec_env


class Witness(BaseCallback):
    """Notes what it is called for, and ends the run after ``limit`` steps."""

    def __init__(self, limit: float = float("inf")):
        super().__init__()
        self.limit, self.calls = limit, []

    def _on_training_start(self):
        self.calls.append("start")

    def _on_rollout_start(self):
        self.calls.append("rollout")

    def _on_step(self):
        return self.n_calls < self.limit

    def _on_rollout_end(self):
        self.calls.append("rollout end")
        assert self.locals["rollout"].num_steps > 0

    def _on_training_end(self):
        self.calls.append("end")


def test_callbacks_of_stable_baselines3(make_agent):
    witness, other = Witness(), Witness()
    agent = make_agent("PPO", env={"min_new_tokens": 5}).learn(160, callback=[witness, other])
    assert witness.calls == ["start", *["rollout", "rollout end"] * 2, "end"] == other.calls
    assert witness.n_calls == 2 * 5
    assert witness.model is agent and witness.num_timesteps == agent.num_timesteps == 160


@pytest.mark.parametrize("text", [True, False], ids=["text", "corridor"])
def test_a_callback_that_says_false_ends_the_run(text, make_agent, corridor):
    witness = Witness(limit=13)
    if text:
        agent = make_agent("PPO", env={"min_new_tokens": 5})
    else:
        agent = PPO("MlpPolicy", corridor(), n_steps=5, seed=0)
    agent.learn(10_000, callback=witness)
    assert witness.n_calls == 13
    assert witness.calls.count("rollout end") == 2 and witness.calls[-1] == "end"
    agent.learn(20)  # and the agent can go on


def test_a_function_as_callback(make_agent):
    calls = []

    def stop_at_seven(local_variables, global_variables) -> bool:
        calls.append(local_variables["self"])
        return len(calls) < 7

    agent = make_agent("REINFORCE").learn(10_000, callback=stop_at_seven)
    assert len(calls) == 7 and calls[0] is agent


# --- each callback of stable-baselines3 ---------------------------------------------------------
# 16 rows of 5 tokens: a rollout has 5 steps and 80 tokens.


@pytest.fixture
def agent(make_agent) -> PPO:
    return make_agent("PPO", env={"min_new_tokens": 5, "stop": None})


@pytest.fixture
def eval_env(make_text_envs) -> SB3VecEnv:
    settings = dict(min_new_tokens=5, stop=None, autoreset_mode="same_step")
    return SB3VecEnv(make_text_envs(4, **settings))


def test_checkpoint_callback_names_the_timesteps(agent, make_text_envs, tmp_path):
    callback = CheckpointCallback(save_freq=3, save_path=str(tmp_path), name_prefix="run")
    agent.learn(160, callback)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["run_144_steps.zip", "run_48_steps.zip", "run_96_steps.zip"]
    for name in names:
        again = PPO.load(tmp_path / name, env=make_text_envs(16, min_new_tokens=5, stop=None))
        assert again.num_timesteps == int(name.split("_")[1])
    again.learn(80, reset_num_timesteps=False)
    assert again.num_timesteps == 96 + 80


def test_eval_callback_sees_the_timesteps(agent, eval_env, tmp_path):
    best = tmp_path / "best"
    callback = EvalCallback(eval_env, n_eval_episodes=8, eval_freq=2, log_path=str(tmp_path),
                            best_model_save_path=str(best), verbose=0, warn=False)  # fmt: skip
    log = configure(str(tmp_path), ["csv"])
    agent.set_logger(log)
    agent.learn(160, callback)
    written = np.load(tmp_path / "evaluations.npz")
    assert written["timesteps"].tolist() == [32, 64, 96, 128, 160]
    assert (written["ep_lengths"] == 5).all() and written["results"].shape == (5, 8)
    assert callback.best_mean_reward == written["results"].mean(axis=1).max()
    assert PPO.load(best / "best_model", env=agent.env).num_timesteps % 32 == 0
    table = pd.read_csv(tmp_path / "progress.csv").dropna(subset=["eval/mean_reward"])
    assert table["time/total_timesteps"].tolist()[0] == 32


def test_an_evaluation_inside_a_rollout_does_not_change_it(agent, eval_env, make_agent, weights):
    other = make_agent("PPO", env={"min_new_tokens": 5, "stop": None})
    callback = EvalCallback(eval_env, n_eval_episodes=4, eval_freq=1, verbose=0, warn=False)
    agent.learn(160, callback)
    other.learn(160)
    for name, weight in weights(other).items():
        assert torch.equal(weights(agent)[name], weight), name


def test_stop_training_on_reward_threshold(agent, eval_env):
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1.0)
    EvalCallback(eval_env, callback_on_new_best=stop, eval_freq=7, verbose=0, warn=False)
    callback = stop.parent
    agent.learn(10_000, callback)
    assert callback.n_calls == 7 and callback.num_timesteps == 112
    assert agent.num_timesteps == 80  # the rollout that it stopped is not learned from


def test_stop_training_on_max_episodes(agent):
    callback = StopTrainingOnMaxEpisodes(max_episodes=3)
    agent.learn(10_000, callback)
    assert callback.n_episodes == 3 * 16 and callback.n_calls == 15
    assert callback.num_timesteps == 240


def test_stop_training_on_no_model_improvement(agent, text_kwargs):
    constant = text_kwargs(reward=lambda episodes: [1.0] * len(episodes))
    eval_env = SB3VecEnv(gym.make_vec("TextGen-v0", 2, autoreset_mode="same_step", **constant))
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=1)
    callback = EvalCallback(eval_env, callback_after_eval=stop, eval_freq=4, verbose=0, warn=False)
    agent.learn(10_000, callback)
    # The second evaluation is the first that counts: it, the third and the fourth bring nothing.
    assert stop.no_improvement_evals == 3 and stop.n_calls == 4 and callback.num_timesteps == 256


def test_every_n_timesteps(agent):
    seen = []
    note = ConvertCallback(lambda now, _: seen.append(now["self"].num_timesteps) or True)
    agent.learn(160, EveryNTimesteps(n_steps=40, callback=note))
    assert seen == [48, 96, 144]  # the first multiple of 16 after each 40


def test_log_every_n_timesteps(agent, tmp_path):
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(240, LogEveryNTimesteps(n_steps=64), log_interval=None)
    table = pd.read_csv(tmp_path / "progress.csv")
    assert table["time/total_timesteps"].tolist() == [64, 128, 192]
    assert table["rollout/ep_len_mean"].dropna().tolist() == [5, 5]  # none had ended at first


def test_progress_bar_callback_counts_rows(agent, capsys):
    callback = ProgressBarCallback()
    agent.learn(160, callback)
    assert callback.pbar.total == 160 and callback.pbar.n == 160
    agent.learn(80, callback, reset_num_timesteps=False)
    assert callback.pbar.total == 80 and callback.pbar.n == 80


def test_a_list_and_functions_see_the_same(agent):
    seen: list[list[int]] = [[], []]
    functions = [
        ConvertCallback(lambda now, _, own=own: own.append(now["self"].num_timesteps) or True)
        for own in seen
    ]
    agent.learn(80, CallbackList([functions[0], CallbackList([functions[1]])]))
    assert seen[0] == seen[1] == [16, 32, 48, 64, 80]


@pytest.mark.parametrize("kind", ["native", "DummyVecEnv", "gymnasium", "in a list"])
def test_an_evaluation_callback_in_a_task_with_kl(kind, text_kwargs, model_folder):
    """Its rewards are shaped by the KL of the policy that learns."""
    kwargs = text_kwargs(reference=model_folder, kl_coef=0.5, max_new_tokens=4)
    make = {
        "DummyVecEnv": lambda: DummyVecEnv([lambda: gym.make("TextGen-v0", **kwargs)] * 2),
        "gymnasium": lambda: gym.make("TextGen-v0", **kwargs),
    }.get(kind, lambda: text_vec_env(n_envs=2, **kwargs))
    callback = EvalCallback(make(), eval_freq=1, n_eval_episodes=2, verbose=0, warn=False)
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=4, seed=0, device="cpu", learning_rate=0.01,
        env_kwargs=kwargs, policy_kwargs={"model": model_folder},
    )  # fmt: skip
    agent.learn(40, callback=CallbackList([callback]) if kind == "in a list" else callback)
    assert np.isfinite(callback.last_mean_reward)
    agent.learn(20, reset_num_timesteps=False)  # in its own environment
