"""A saved agent knows the task that it was trained on, and what it must not do with a file."""

from __future__ import annotations

import json
import sys

import gymnasium as gym
import pytest

from agents import PPO, REINFORCE

TASK = {"prompts": ["a b", "c"], "reward": "length(3)", "max_new_tokens": 4, "stop": ["d"]}


@pytest.fixture
def shaped(model_folder):
    """``shaped(...)``: PPO in an environment made by its id, with rewards shaped by KL."""

    def make(**env_kwargs):
        return PPO(
            "CausalLMPolicy", "TextGen-v0", n_envs=6, seed=0, device="cpu", n_epochs=1,
            policy_kwargs={"model": model_folder},
            env_kwargs={"reference": model_folder, "kl_coef": 0.25, **TASK, **env_kwargs},
        )  # fmt: skip

    return make


def edit(folder, change) -> None:
    """Change what agent.json says."""
    file = folder / "agent.json"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


# The task


@pytest.mark.parametrize("env", [None, "TextGen-v0", "textenv:TextGen-v0"])
def test_load_makes_the_environment_that_the_agent_was_trained_in(env, shaped, tmp_path):
    agent = shaped().learn(30)
    agent.save(tmp_path)
    again = PPO.load(tmp_path, env, device="cpu")
    assert again.env.num_envs == 6
    assert again.env.task.as_data()[0] == {
        **agent.env.task.as_data()[0], "tokenizer": str(tmp_path),
    }  # fmt: skip
    assert again.env.shaping.schedule.value == 0.25
    agent.collector.seed = again.collector.seed = 3
    one, other = agent.collect(), again.collect()
    assert one.episodes == other.episodes
    assert max(map(abs, one.episodes["kl"])) > 0.01
    again.learn(10)


def test_arguments_of_load_change_the_task(shaped, tmp_path):
    shaped().save(tmp_path)
    changes = {"max_new_tokens": 2, "kl_coef": 0.0}
    again = PPO.load(tmp_path, env_kwargs=changes, n_envs=3, device="cpu")
    assert again.env.num_envs == 3 and again.env.max_new_tokens == 2
    assert again.env.shaping.schedule.value == 0 and again.env.task.arguments["stop"] == ["d"]


def test_another_environment_of_the_callers_own_takes_its_place(shaped, tmp_path, make_text_envs):
    shaped().save(tmp_path)
    envs = make_text_envs(4)
    assert PPO.load(tmp_path, envs, device="cpu").env is envs
    with pytest.raises(ValueError, match="use 'MlpPolicy' here"):
        PPO.load(tmp_path, "CartPole-v1", device="cpu")


def test_an_environment_that_is_no_text_is_made_again(on_cartpole, corridor, tmp_path):
    on_cartpole(PPO, n_envs=3, env_kwargs={"max_episode_steps": 7}).save(tmp_path / "cartpole")
    again = PPO.load(tmp_path / "cartpole", device="cpu")
    assert again.env.num_envs == 3
    assert max(again.collect().episodes["length"]) <= 7
    PPO("MlpPolicy", "Pendulum-v1", n_envs=2, env_kwargs={"g": 9.0}).save(tmp_path / "pendulum")
    again = PPO.load(tmp_path / "pendulum", device="cpu")
    assert [single.unwrapped.g for single in again.env.envs] == [9.0, 9.0]
    PPO("MlpPolicy", corridor(), n_steps=8).save(tmp_path / "corridor")
    with pytest.raises(ValueError, match=r"cannot be made again.*pass env="):
        PPO.load(tmp_path / "corridor")


def test_a_wrapped_text_environment_has_to_be_given_again(make_agent, wrapped, tmp_path):
    make_agent("PPO", envs=wrapped(4)).save(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be made again.*pass env="):
        PPO.load(tmp_path)


def test_live_objects_are_asked_for_again(make_agent, make_text_envs, tmp_path, make_tokenizer):
    agent = make_agent("PPO")  # in an environment whose reward is a function
    agent.save(tmp_path)
    with pytest.raises(ValueError, match=r"live object as reward.*env_kwargs=\{'reward': "):
        PPO.load(tmp_path, device="cpu")
    again = PPO.load(tmp_path, env_kwargs={"reward": "length"}, device="cpu")
    assert again.env.tokenizer.get_vocab() == agent.env.tokenizer.get_vocab()


def test_the_policy_of_another_tokenizer_is_refused_at_load(shaped, other_folder, tmp_path):
    shaped().save(tmp_path)
    with pytest.raises(ValueError, match="The reference was made for another tokenizer"):
        PPO.load(tmp_path, env_kwargs={"reference": other_folder}, device="cpu")
    with pytest.raises(ValueError, match="The policy was made for another tokenizer"):
        PPO.load(
            tmp_path, env_kwargs={"tokenizer": other_folder, "reference": other_folder},
            device="cpu",
        )  # fmt: skip


# Code that a file names


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module whose import is noticed: ``own_module.score`` is a reward."""
    (tmp_path / "own_module.py").write_text("def score(prompt, response): return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_module:score"
    sys.modules.pop("own_module", None)


def test_a_reward_that_is_code_is_not_imported_from_a_file(own_module, shaped, tmp_path):
    shaped(reward=own_module).save(tmp_path / "run")
    del sys.modules["own_module"]
    for env in (None, "TextGen-v0"):
        with pytest.raises(ValueError, match=r"names code.*env_kwargs=\{'reward': 'module:fun"):
            PPO.load(tmp_path / "run", env, device="cpu")
    assert "own_module" not in sys.modules
    again = PPO.load(tmp_path / "run", env_kwargs={"reward": own_module}, device="cpu")
    assert set(again.collect().episodes["score"]) == {1.0}
    again = PPO.load(tmp_path / "run", env_kwargs={"reward": "length"}, device="cpu")
    assert again.env.shaping.schedule.value == 0.25


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["hyperparameters"].update(env_kwargs={"reward": "os:getcwd"}), "env_kwargs"),
        (lambda d: d["hyperparameters"].update(tensorboard_log="/tmp/x"), "tensorboard_log"),
        (lambda d: d["hyperparameters"].update(device="cuda"), "sets device, which no PPO saves"),
        (lambda d: d.update(policy="os:system"), "os:system"),
        (lambda d: d.update(policy="builtins.eval"), "custom class, builtins.eval"),
        (lambda d: d["task"]["kwargs"].update(reward="os:getcwd"), "names code"),
        (lambda d: d["task"]["kwargs"].update(reward={"os:getcwd": 1.0}), "names code"),
        (lambda d: d["task"].update(id="antigravity:Env-v0"), "not registered here"),
        (lambda d: d["task"].update(id="NoSuch-v0"), "not registered here"),
        (lambda d: d.update(algorithm="os"), "holds a os, not a PPO"),
    ],
)
def test_a_file_sets_nothing_but_data(change, sentence, shaped, tmp_path):
    shaped().save(tmp_path)
    edit(tmp_path, change)
    sys.modules.pop("antigravity", None)
    with pytest.raises(ValueError, match=sentence):
        PPO.load(tmp_path, device="cpu")
    assert "antigravity" not in sys.modules


# Wrong folders


def test_an_agent_of_another_class_is_named(shaped, tmp_path):
    shaped().save(tmp_path)
    with pytest.raises(ValueError, match=r"holds a PPO, not a REINFORCE: open it with PPO\.load"):
        REINFORCE.load(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no agent in .*nowhere"):
        PPO.load(tmp_path / "nowhere")


def test_an_id_that_only_the_module_of_its_author_registers(on_cartpole, tmp_path):
    gym.register("Mine-v0", entry_point="textenv.parabola:ParabolaEnv")
    try:
        PPO("MlpPolicy", "Mine-v0", n_envs=2).save(tmp_path)
        assert PPO.load(tmp_path).env.num_envs == 2
    finally:
        gym.registry.pop("Mine-v0")
    with pytest.raises(ValueError, match="'Mine-v0', which is not registered here"):
        PPO.load(tmp_path)
