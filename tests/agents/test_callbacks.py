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
from stable_baselines3.common.vec_env import VecEnv

from agents import PPO
from agents.callbacks import RolloutCallback, needs_steps
from agents.runs import RunRecorder
from agents.sb3 import SB3VecEnv


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


# --- what a step shows --------------------------------------------------------------------------


class Steps(BaseCallback):
    """Copies what it is shown at each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        names = "actions rewards dones infos new_obs env values log_probs n_steps".split()
        self.seen.append({name: self.locals[name] for name in names})
        self.seen[-1] |= {"timesteps": self.num_timesteps, "agent": self.model.num_timesteps,
                          "buffer": len(self.model.ep_info_buffer)}  # fmt: skip
        return True


def test_the_steps_of_whole_episodes(make_agent):
    """A step is a token of each row that still runs; all rows end together."""
    steps = Steps()
    agent = make_agent("PPO", 16)
    silent = make_agent("PPO", 16)
    agent.learn(1, steps)
    silent.learn(1)
    assert agent.num_timesteps == silent.num_timesteps > 16  # one number, however it is counted
    assert agent.ep_info_buffer[0]["r"] == silent.ep_info_buffer[0]["r"]
    counts = [step["timesteps"] for step in steps.seen]
    lengths = np.array([episode["l"] for episode in agent.ep_info_buffer])
    running = [int((lengths > t).sum()) for t in range(lengths.max())]
    assert counts == np.cumsum(running).tolist() == [step["agent"] for step in steps.seen]
    assert running[0] == 16 > running[-1] and counts[-1] == lengths.sum()
    for number, step in enumerate(steps.seen, 1):
        last = number == len(steps.seen)
        assert step["n_steps"] == number and step["dones"].tolist() == [last] * 16
        assert isinstance(step["env"], VecEnv) and step["env"] is agent.get_env()
        assert step["actions"].shape == (16,) and step["actions"].dtype == np.int64
        assert type(step["new_obs"]["input_ids"]) is np.ndarray and len(step["infos"]) == 16
        assert (step["rewards"] != 0).any() == last
    infos = steps.seen[-1]["infos"]
    assert [info["episode"]["r"] for info in infos] == pytest.approx([i["score"] for i in infos])
    assert [info["episode"]["l"] for info in infos] == lengths.tolist()
    assert len(agent.ep_info_buffer) == steps.seen[-1]["buffer"] + 0 == 16


def test_the_steps_of_other_environments(corridor):
    steps = Steps()
    agent = PPO("MlpPolicy", corridor(), n_steps=50, batch_size=50, n_epochs=1, seed=0)
    silent = PPO("MlpPolicy", corridor(), n_steps=50, batch_size=50, n_epochs=1, seed=0)
    agent.learn(100, steps)
    silent.learn(100)
    assert [step["timesteps"] for step in steps.seen] == list(range(1, 101))
    assert [entry["r"] for entry in agent.ep_info_buffer] == [
        entry["r"] for entry in silent.ep_info_buffer
    ]  # fmt: skip
    total, length, before, ends, cuts = 0.0, 0, None, 0, 0
    for step in steps.seen:
        total, length = total + step["rewards"][0], length + 1
        (done,), (info,) = step["dones"], step["infos"]
        assert ("episode" in info) == done == ("terminal_observation" in info)
        if done:
            assert info["episode"]["r"] == pytest.approx(total) and info["episode"]["l"] == length
            assert step["new_obs"][0].argmax() == 0  # the next episode has begun
            arrived = info["terminal_observation"].argmax() == 5
            assert info["TimeLimit.truncated"] == (not arrived) and (arrived or length == 20)
            total, length, ends, cuts = 0.0, 0, ends + 1, cuts + info["TimeLimit.truncated"]
        elif before is not None:
            moved = step["new_obs"][0].argmax() - before
            assert moved in ((1,) if step["actions"][0] == 1 else (-1, 0))
        before = step["new_obs"][0].argmax()
    assert ends > cuts > 0 and ends == len(agent.ep_info_buffer)


def test_steps_that_only_reset_do_not_count(mode, corridor):
    """NEXT_STEP spends a step on each reset."""
    steps = Steps()
    envs = gym.vector.SyncVectorEnv([corridor] * 2, autoreset_mode=mode)
    agent = PPO("MlpPolicy", envs, n_steps=60, batch_size=50, n_epochs=1, seed=0)
    agent.learn(1, steps)
    episodes = agent.ep_info_buffer
    expected = 120 - len(episodes) if mode == gym.vector.AutoresetMode.NEXT_STEP else 120
    assert abs(agent.num_timesteps - expected) <= 2  # an end in the last step is reset in the next
    assert steps.seen[-1]["timesteps"] == agent.num_timesteps
    assert sum(step["dones"].sum() for step in steps.seen) == len(episodes) > 4


def test_text_step_by_step(wrapped, make_model):
    steps = Steps()
    agent = PPO("CausalLMPolicy", wrapped(4), n_steps=10, batch_size=4, n_epochs=1, seed=0,
                policy_kwargs={"model": make_model()})  # fmt: skip
    agent.learn(1, steps)
    assert steps.seen[-1]["timesteps"] == agent.num_timesteps < 40
    ended = [info for step in steps.seen for info in step["infos"] if "episode" in info]
    assert len(ended) == len(agent.ep_info_buffer) > 4
    for info in ended:
        assert info["episode"]["r"] == pytest.approx(info["score"]) and info["response"] is not None


def test_whether_steps_are_needed(tmp_path):
    """Only then a rollout on an accelerator waits for the device at each step."""
    silent = [ConvertCallback(None), RunRecorder(tmp_path / "run"), CallbackList([])]
    assert not any(map(needs_steps, silent)) and not needs_steps(CallbackList(silent))

    class Eager(RolloutCallback):
        def _on_step(self):
            return False

    for callback in (Steps(), ConvertCallback(lambda *_: True), Eager(), LogEveryNTimesteps(5)):
        assert needs_steps(callback) and needs_steps(CallbackList([*silent, callback]))


def test_an_error_at_a_step_takes_the_count_back(make_agent):
    agent = make_agent("PPO", env={"min_new_tokens": 5})

    def fail(local_variables, global_variables):
        if local_variables["self"].num_timesteps > 100:
            raise KeyError("a bug")
        return True

    with pytest.raises(KeyError):
        agent.learn(1000, fail)
    assert agent.num_timesteps == 80 and agent.num_rollouts == 1  # those that it has learned from


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
    steps, seen = Steps(), []
    function = ConvertCallback(lambda now, _: seen.append(now["self"].num_timesteps) or True)
    agent.learn(80, CallbackList([steps, CallbackList([function])]))
    assert seen == [step["timesteps"] for step in steps.seen] == [16, 32, 48, 64, 80]


# --- runs of the log, and another environment ---------------------------------------------------


def test_each_learn_begins_a_run_of_its_name(make_agent, tmp_path):
    agent = make_agent("PPO", tensorboard_log=str(tmp_path))
    agent.learn(1, tb_log_name="first")
    agent.learn(1, tb_log_name="second")
    agent.learn(1, tb_log_name="second")
    agent.learn(1, tb_log_name="second", reset_num_timesteps=False)  # goes on in the same
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first_1", "second_1", "second_2"]
    assert len(list((tmp_path / "second_2").iterdir())) == 2


def test_a_given_logger_stays(make_agent, tmp_path):
    agent = make_agent("PPO", tensorboard_log=str(tmp_path / "board"))
    log = configure(str(tmp_path / "own"), ["csv"])
    agent.set_logger(log)
    for _ in range(2):
        agent.learn(1)
        assert agent.logger is log
    assert not (tmp_path / "board").exists()


def test_dump_logs_needs_a_log(make_agent):
    with pytest.raises(ValueError, match="call learn, or set_logger"):
        make_agent("PPO").dump_logs()


def test_the_spaces_of_an_agent_are_those_of_a_row(agent):
    assert agent.observation_space == agent.env.single_observation_space
    assert agent.action_space == agent.env.single_action_space and agent.n_envs == 16


def test_set_env(agent, make_text_envs, corridor, make_model):
    agent.learn(80)
    envs = make_text_envs(8, min_new_tokens=5, stop=None, reference=make_model(seed=1), kl_coef=0.2)
    agent.set_env(envs)
    assert agent.env is envs and agent.n_envs == 8 and agent.get_env().env is envs
    agent.learn(40, reset_num_timesteps=False)
    assert agent.num_timesteps == 80 + 40 and envs.shaping.policy is agent.policy
    agent.set_env(agent.get_env())
    with pytest.raises(ValueError, match="single_observation_space"):
        agent.set_env(make_text_envs(8, max_new_tokens=7))
    with pytest.raises(ValueError, match="force_reset"):
        agent.set_env(envs, force_reset=False)
    walker = PPO("MlpPolicy", corridor(), n_steps=10, seed=0)
    walker.set_env(corridor())
    walker.learn(10)
