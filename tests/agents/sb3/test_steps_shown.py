"""What a callback is shown at each step, and how the steps are counted."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    LogEveryNTimesteps,
)
from stable_baselines3.common.vec_env import VecEnv

from agents import PPO
from agents.runs import RunRecorder
from agents.sb3.callbacks import RolloutCallback, needs_steps


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
