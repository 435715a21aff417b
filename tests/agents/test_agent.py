"""`learn`: timesteps, schedules and logs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from stable_baselines3.common.logger import configure

from agents import PPO


def test_a_learning_rate_schedule_falls_with_progress(make_agent, monkeypatch):
    agent = make_agent("PPO", learning_rate=lambda remaining: 1e-3 * remaining, n_epochs=1)
    assert agent.optimizer.param_groups[0]["lr"] == 1e-3
    rates, step = [], agent.optimizer_step

    def noting(*given):
        rates.append(agent.optimizer.param_groups[0]["lr"])
        return step(*given)

    monkeypatch.setattr(agent, "optimizer_step", noting)
    agent.learn(200)
    assert rates[0] == 1e-3 and all(np.diff(rates) < 0) and 0 < rates[-1] < 5e-4


def test_timesteps_are_tokens_that_count(make_agent):
    agent = make_agent("PPO")
    first = agent.collect()
    assert agent.num_timesteps == first.num_steps == sum(first.episodes["length"])
    agent.learn(100)
    assert 100 <= agent.num_timesteps < 100 + 16 * 5  # from 0, and the last rollout is finished
    before = agent.num_timesteps
    agent.learn(100, reset_num_timesteps=False)
    assert agent.num_timesteps >= before + 100


def test_the_csv_log_has_its_columns(name, make_agent, make_model, tmp_path):
    shaping = {"reference": make_model(seed=1), "kl_coef": 0.1}
    agent = make_agent(name, env=shaping)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(200)
    table = pd.read_csv(tmp_path / "progress.csv")
    wanted = {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/score_mean", "rollout/kl",
        "train/policy_objective" if name == "TRPO" else "train/policy_loss",
        "train/learning_rate", "time/fps", "time/total_timesteps",
    }  # fmt: skip
    assert wanted <= set(table.columns)
    assert table["time/total_timesteps"].iloc[-1] == agent.num_timesteps
    assert table["time/iterations"].tolist() == list(range(1, len(table) + 1))
    assert table.notna().all().all()


def test_what_is_logged_of_a_rollout_are_the_means_of_its_episodes(
    make_agent, make_model, tmp_path
):
    settings = {"env": {"reference": make_model(seed=1), "kl_coef": 0.1}}
    episodes = make_agent("PPO", **settings).collect().episodes
    agent = make_agent("PPO", **settings)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(1)
    (logged,) = pd.read_csv(tmp_path / "progress.csv").to_dict("records")
    for key, column in (
        ("return", "ep_rew_mean"), ("length", "ep_len_mean"), ("score", "score_mean"), ("kl", "kl")
    ):  # fmt: skip
        assert logged[f"rollout/{column}"] == pytest.approx(np.mean(episodes[key]), rel=1e-5)
    assert logged["rollout/kl"] > 0


def test_every_log_interval_th_rollout_is_logged(make_agent, tmp_path):
    agent = make_agent("REINFORCE", env={"min_new_tokens": 5})
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(80 * 5, log_interval=2)
    assert pd.read_csv(tmp_path / "progress.csv")["time/iterations"].tolist() == [2, 4]


def test_tensorboard_and_the_table_on_stdout(make_agent, tmp_path, capsys):
    make_agent("PPO", verbose=1, tensorboard_log=str(tmp_path)).learn(50, tb_log_name="trial")
    assert "ep_rew_mean" in capsys.readouterr().out
    assert list((tmp_path / "trial_1").glob("events*"))


def test_the_progress_bar_shows_speed_score_and_length(make_agent, capsys):
    make_agent("PPO").learn(200, progress_bar=True)
    shown = capsys.readouterr().out
    assert "score" in shown and "tokens/s" in shown and "of 200 tokens" in shown and "left" in shown


@pytest.mark.parametrize(("policy", "env"), [("MlpPolicy", "CartPole-v1"), ("CausalLMPolicy", "x")])
def test_a_learning_rate_by_its_place_gets_a_sentence(policy, env):
    """As in stable-baselines3, where it is the third argument."""
    with pytest.raises(TypeError, match=r"by its name: write learning_rate=0\.0005, say"):
        PPO(policy, env, 5e-4)


def test_two_agents_learn_in_one_environment_in_turn(make_text_envs, make_model):
    env = make_text_envs(4, reference=make_model(seed=1), kl_coef=0.1)
    first, second = (
        PPO("CausalLMPolicy", env, device="cpu", policy_kwargs={"model": make_model()})
        for _ in range(2)
    )
    for agent in (first, second, first):
        assert agent.learn(8).num_timesteps >= 8
