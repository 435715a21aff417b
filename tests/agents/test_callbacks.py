"""Callbacks of stable-baselines3, lists of them, and plain functions."""

from __future__ import annotations

import pytest
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

from agents import PPO


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
    assert witness.model is agent and witness.num_timesteps <= agent.num_timesteps == 160


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


def test_checkpoint_callback_writes_folders_that_load(make_agent, make_text_envs, tmp_path):
    callback = CheckpointCallback(save_freq=5, save_path=str(tmp_path), name_prefix="run")
    make_agent("PPO", env={"min_new_tokens": 5}).learn(160, callback=callback)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2
    assert PPO.load(folders[0], env=make_text_envs(16)).num_timesteps == 0
