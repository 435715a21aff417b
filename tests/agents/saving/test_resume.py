"""A run that was broken off goes on bit for bit as if it had not been."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest
import torch
import transformers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from stable_baselines3.common.callbacks import BaseCallback
from stateful import STATEFUL
from torch.testing import assert_close

import agents.algorithms
from agents import PPO
from agents.experience.steps import Stopped
from agents.training.hyperparameters import state_names
from textenv import TextGenEnv
from textenv.rewards import RewardError

TOTAL = 200


class SaveAt(BaseCallback):
    """Saves the agent before one of its rollouts."""

    def __init__(self, folder, rollout):
        super().__init__()
        self.folder, self.rollout = folder, rollout

    def _on_rollout_start(self):
        if self.model.num_rollouts == self.rollout:
            self.model.save(self.folder)

    def _on_step(self):
        return True


def everything(agent) -> dict[str, torch.Tensor]:
    """All that learning has made of an agent, and what its next rollout depends on."""
    optimizer = {
        f"{i}.{name}": value
        for i, entry in agent.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    generators = {
        "actions": agent.policy.generator.get_state(), "batches": agent.generator.get_state()
    }  # fmt: skip
    return {**agent.policy.state_dict(), **optimizer, **generators}


def assert_goes_on(agent, load, folder, total=TOTAL, rollout=2):
    """The agent learns; the one that was saved before a rollout of it ends in the same state."""
    agent.learn(total, callback=SaveAt(folder, rollout))
    again = load(folder)
    assert 0 < again.num_timesteps < agent.num_timesteps
    again.learn(total - again.num_timesteps, reset_num_timesteps=False)
    assert (again.num_timesteps, again.num_rollouts) == (agent.num_timesteps, agent.num_rollouts)
    assert again.num_rollouts > rollout + 1
    assert_close(everything(again), everything(agent), rtol=0, atol=0)
    for name in state_names(type(agent)):
        assert getattr(again, name) == getattr(agent, name)
    follows, wanted = again.collect(), agent.collect()
    assert torch.equal(follows.actions, wanted.actions)
    assert torch.equal(follows.rewards, wanted.rewards)
    return again


@pytest.fixture
def text_agent(model_folder):
    """``text_agent(name, **arguments)``: an agent whose task can be saved."""

    def make(name, env=None, policy=None, **arguments):
        grouped = {"group_size": 4} if name in ("GRPO", "RLOO") else {}
        return getattr(agents.algorithms, name)(
            "CausalLMPolicy", "TextGen-v0", n_envs=8, seed=3, device="cpu",
            policy_kwargs={"model": model_folder, **(policy or {})},
            env_kwargs={"prompts": ["a b", "c", "b a c a", "d"], "reward": "length(3)",
                        "max_new_tokens": 5, "reference": model_folder, "kl_coef": 0.1,
                        **(env or {})},
            **{**grouped, "learning_rate": 1e-2, **arguments},
        )  # fmt: skip

    return make


def test_all_algorithms_on_text(name, text_agent, tmp_path):
    agent = text_agent(name)
    assert_goes_on(agent, type(agent).load, tmp_path / "saved")


def test_lookahead(text_agent, tmp_path):
    agent = text_agent("Lookahead", policy={"critic_layers": 1})
    assert_goes_on(agent, type(agent).load, tmp_path / "saved")


@pytest.mark.parametrize(
    "arguments",
    [
        {"env": {"kl_coef": {"target": 0.5, "horizon": 400, "initial": 0.1}}},
        {"lr_schedule": "cosine", "vf_learning_rate": 1e-3, "policy": {"critic_layers": 1}},
        {"kl_loss_coef": 0.1, "kl_loss_target": 0.01, "n_epochs": 3, "batch_size": 4},
        {"policy": {"dtype": "bfloat16"}},
        pytest.param(
            {"policy": {"temperature": 0.7, "banned_tokens": [3]}, "env": {"stop": ["b"]}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["adaptive-kl", "schedule", "adaptive-penalty", "bfloat16", "sampling"],
)
def test_ppo_with_what_changes_in_time(arguments, text_agent, tmp_path):
    again = assert_goes_on(text_agent("PPO", **arguments), PPO.load, tmp_path / "saved")
    if "env" in arguments and "kl_coef" in arguments["env"]:
        assert again.env.shaping.schedule.value != 0.1


def test_adapters(model_folder, text_agent, tmp_path):
    peft = pytest.importorskip("peft")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(base, config)
    agent = text_agent("PPO", policy={"model": model}, env={"tokenizer": model_folder})
    agent.learn(TOTAL, callback=SaveAt(tmp_path / "saved", 2))
    again = PPO.load(tmp_path / "saved")
    again.learn(TOTAL - again.num_timesteps, reset_num_timesteps=False)
    trained = [
        [p for p in run.policy.parameters() if p.requires_grad] for run in (agent, again)
    ]  # fmt: skip
    assert_close(trained[1], trained[0], rtol=0, atol=0)


@pytest.mark.parametrize("steps_mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_text_that_is_stepped_and_wrapped(steps_mode, model_folder, text_agent, tmp_path):
    """Rollouts end in mid-episode, and the reference has a cache of its own."""
    task = {
        "tokenizer": model_folder, "reference": model_folder, "kl_coef": 0.1,
        "prompts": ["a b", "c", "b a c a"], "reward": "length(3)", "max_new_tokens": 5,
    }  # fmt: skip

    def environment():
        envs = [lambda: RecordEpisodeStatistics(TextGenEnv(**task)) for _ in range(3)]
        return SyncVectorEnv(envs, autoreset_mode=steps_mode)

    agent = PPO(
        "CausalLMPolicy", environment(), seed=0, n_steps=13, device="cpu", learning_rate=1e-2,
        policy_kwargs={"model": model_folder},
    )  # fmt: skip
    assert_goes_on(agent, lambda f: PPO.load(f, env=environment()), tmp_path / "saved", 140)


@pytest.mark.parametrize("algorithm", ["PPO", "TRPO", "ActorCritic", "REINFORCE"])
def test_small_networks(algorithm, tmp_path):
    """In an environment of somebody's own that says where it is."""
    cls = getattr(agents.algorithms, algorithm)
    agent = cls("MlpPolicy", STATEFUL, seed=1, n_envs=4, n_steps=64, device="cpu")
    assert_goes_on(agent, cls.load, tmp_path / "saved", 1000)


def test_an_agent_that_has_not_begun_begins_with_its_seed(tmp_path):
    agent = PPO("MlpPolicy", "CartPole-v1", seed=1, n_envs=2, n_steps=16, device="cpu")
    agent.save(tmp_path / "saved")
    assert torch.equal(PPO.load(tmp_path / "saved").collect().actions, agent.collect().actions)


def test_the_kind_of_vector_is_saved(tmp_path):
    kind = {"vectorization_mode": "sync"}
    agent = PPO("MlpPolicy", "CartPole-v1", n_envs=4, device="cpu", env_kwargs=kind)
    agent.save(tmp_path / "saved")
    assert isinstance(PPO.load(tmp_path / "saved").env.unwrapped, SyncVectorEnv)


@pytest.mark.parametrize("steps_mode", AutoresetMode)
def test_one_environment_after_another(steps_mode, tmp_path):
    def environment():
        return SyncVectorEnv([lambda: gym.make(STATEFUL)] * 3, autoreset_mode=steps_mode)

    agent = PPO("MlpPolicy", environment(), seed=1, n_steps=64, device="cpu")
    assert_goes_on(agent, lambda f: PPO.load(f, env=environment()), tmp_path / "saved", 1000)


@pytest.mark.parametrize(
    ("env", "unknown"), [("CartPole-v1", "CartPoleVectorEnv"), ("Pendulum-v1", "PendulumEnv")]
)
def test_new_episodes_where_the_environment_does_not_say_where_it_is(
    env, unknown, tmp_path, caplog
):
    agent = PPO("MlpPolicy", env, seed=1, n_envs=2, n_steps=64, device="cpu").learn(256)
    agent.save(tmp_path / "saved")
    assert caplog.text == ""
    again = PPO.load(tmp_path / "saved")
    sentence = f"The environment begins new episodes: {unknown} has no state_dict"
    assert caplog.text.count(sentence) == 1
    assert_close(everything(again), everything(agent), rtol=0, atol=0)
    assert again.collector.seed not in (None, 1)  # not the first run's episodes again
    assert again.collector.seed == PPO.load(tmp_path / "saved").collector.seed
    again.learn(128, reset_num_timesteps=False)


def test_a_wrapper_that_counts_lets_new_episodes_begin(tmp_path, caplog):
    def environment():
        return gym.wrappers.vector.NormalizeObservation(gym.make_vec(STATEFUL, num_envs=4))

    caplog.set_level("INFO")
    agent = PPO("MlpPolicy", environment(), seed=1, n_steps=64, device="cpu").learn(256)
    agent.save(tmp_path / "saved")
    PPO.load(tmp_path / "saved", env=environment()).learn(64, reset_num_timesteps=False)
    assert "begins new episodes: NormalizeObservation has no state_dict" in caplog.text


def test_a_checkpoint_of_an_earlier_release(text_agent, tmp_path):
    """It has the attributes of the collector as a tree, each with its kind."""
    agent = text_agent("PPO").learn(100)
    agent.save(tmp_path / "saved")
    file = tmp_path / "saved" / "learning.json"
    learning = json.loads(file.read_text())
    ((_, env),) = learning["collector"]["env"]
    learning["collector"] = {"object": {"env": {"own": as_tree(env)}, "seed": None}}
    file.write_text(json.dumps(learning | {"settings": {}}))
    again = PPO.load(tmp_path / "saved")
    for run in (agent, again):
        run.learn(100, reset_num_timesteps=False)
    assert_close(everything(again), everything(agent), rtol=0, atol=0)


def as_tree(data):
    """Data in the format of earlier releases."""
    if isinstance(data, list):
        return {"list": [as_tree(part) for part in data]}
    if isinstance(data, dict) and data.keys() == {"tensor", "numpy"}:
        return {"array": data}
    if isinstance(data, dict):
        return {"dict": [[key, as_tree(part)] for key, part in data.items()]}
    return data


def test_a_checkpoint_of_an_earlier_release_without_a_text_environment(tmp_path, caplog):
    agent = PPO("MlpPolicy", "CartPole-v1", seed=1, n_envs=2, n_steps=64, device="cpu").learn(256)
    agent.save(tmp_path / "saved")
    file = tmp_path / "saved" / "learning.json"
    attributes = {"env": {"object": {"_elapsed": 3}}, "seed": None, "at_start": {"constant": "x"}}
    file.write_text(json.dumps({"collector": {"object": attributes}, "device": "cpu"}))
    again = PPO.load(tmp_path / "saved")
    assert "The environment begins new episodes" in caplog.text
    assert_close(everything(again), everything(agent), rtol=0, atol=0)
    again.learn(64, reset_num_timesteps=False)


# After an error


class FailsAt:
    """A reward that fails in one of its calls."""

    def __init__(self, call):
        self.calls, self.fails_at = 0, call

    def __call__(self, episodes):
        self.calls += 1
        if self.calls == self.fails_at:
            raise OSError("the judge is away")
        return [len(episode.response_ids) / 5 for episode in episodes]


@pytest.mark.parametrize("scoring", ["batch", "step"])
def test_learning_goes_on_after_an_error_in_the_reward(scoring, model_folder, tmp_path):
    def agent(fails_at):
        task = {
            "tokenizer": model_folder, "reference": model_folder, "kl_coef": 0.1,
            "prompts": ["a b", "c", "d"], "reward": FailsAt(fails_at), "max_new_tokens": 5,
        }  # fmt: skip
        if scoring == "step":
            envs = SyncVectorEnv([lambda: TextGenEnv(**task) for _ in range(4)])
        else:
            envs = gym.make_vec("TextGen-v0", num_envs=4, **task)
        return PPO(
            "CausalLMPolicy", envs, seed=0, device="cpu", n_steps=8, learning_rate=1e-2,
            policy_kwargs={"model": model_folder},
        )  # fmt: skip

    undisturbed, disturbed = agent(-1).learn(200), agent(5)
    with pytest.raises(RewardError, match="the judge is away"):
        disturbed.learn(200)
    disturbed.save(tmp_path / "saved")
    disturbed.learn(200 - disturbed.num_timesteps, reset_num_timesteps=False)
    assert_close(everything(disturbed), everything(undisturbed), rtol=0, atol=0)


def test_a_callback_that_stops_in_mid_rollout_leaves_no_trace(text_agent):
    stopped, undisturbed = text_agent("PPO"), text_agent("PPO").learn(200)
    calls = iter(range(10_000))
    stopped.learn(200, callback=lambda *_: next(calls) != 12)
    assert stopped.num_timesteps < 200
    stopped.learn(200 - stopped.num_timesteps, reset_num_timesteps=False)
    assert_close(everything(stopped), everything(undisturbed), rtol=0, atol=0)


def test_an_environment_of_another_size_begins_anew(text_agent, tmp_path):
    text_agent("PPO").learn(100).save(tmp_path / "saved")
    PPO.load(tmp_path / "saved", n_envs=12).learn(50, reset_num_timesteps=False)


def test_stopped_is_no_error(text_agent):
    with pytest.raises(Stopped):
        text_agent("PPO").collect(on_step=lambda step: False)


def test_the_parameters_of_another_environment_are_kept(tmp_path):
    agent = PPO("MlpPolicy", "Pendulum-v1", seed=0, n_envs=2, n_steps=16, device="cpu").learn(32)
    agent.save(tmp_path / "saved")
    changed = PPO.load(tmp_path / "saved", env_kwargs={"g": 2.0})
    assert [env.unwrapped.g for env in changed.env.unwrapped.envs] == [2.0, 2.0]
    given = PPO.load(tmp_path / "saved", env=gym.make_vec("Pendulum-v1", num_envs=2, g=5.0))
    assert [env.unwrapped.g for env in given.env.unwrapped.envs] == [5.0, 5.0]
    given.learn(16, reset_num_timesteps=False)


def test_an_agent_of_another_kind_of_device_begins_other_actions(tmp_path, caplog):
    PPO("MlpPolicy", "CartPole-v1", n_envs=2, n_steps=16, device="cpu").learn(32).save(
        tmp_path / "a"
    )
    file = tmp_path / "a" / "learning.json"
    file.write_text(file.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    PPO.load(tmp_path / "a").learn(16, reset_num_timesteps=False)
    assert "saved on cuda" in caplog.text


def test_an_attention_that_a_file_names_may_be_code(text_agent, tmp_path):
    text_agent("PPO").save(tmp_path / "saved")
    file = tmp_path / "saved" / "agent.json"
    text = file.read_text().replace(
        '"policy_kwargs": {', '"policy_kwargs": {"attn_implementation": "me/kernel", '
    )
    file.write_text(text)
    with pytest.raises(ValueError, match="'me/kernel', which may name code"):
        PPO.load(tmp_path / "saved")
    assert PPO.load(tmp_path / "saved", policy_kwargs={"attn_implementation": "eager"})
