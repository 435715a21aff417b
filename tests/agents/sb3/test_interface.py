"""The members of stable-baselines3's models that agents have: logs, spaces, another environment."""

from __future__ import annotations

import pytest
from stable_baselines3.common.logger import configure

from agents import PPO


@pytest.fixture
def agent(make_agent) -> PPO:
    return make_agent("PPO", env={"min_new_tokens": 5, "stop": None})


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
