"""A saved agent: the same predictions, the same next step, and a folder that others can open."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
import transformers
from torch.testing import assert_close

import agents.algorithms
from agents import GRPO, PPO, REINFORCE
from agents.training.hyperparameters import hyperparameter_names, state_names
from agents.training.optimization import set_learning_rate

POLICY = {"attn_implementation": "eager", "temperature": 0.8, "banned_tokens": [3]}


@pytest.fixture
def again_in(make_text_envs, make_model):
    """``again_in(kind, folder)``: the agent that was saved there, in an environment like its."""

    def load(kind: type, folder, **changes):
        group = {"group_size": 4} if kind.__name__ in {"GRPO", "RLOO"} else {}
        reference = {"reference": make_model(seed=1)} if kind is GRPO else {}
        envs = make_text_envs(16, stop=[5], **group, **reference)
        return kind.load(folder, env=envs, device="cpu", **changes)

    return load


def test_learning_goes_on_after_load_as_without_the_break(
    name, make_agent, again_in, fitting, weights, tmp_path
):
    kind = getattr(agents.algorithms, name)
    few = fitting(name, batch_size=4, n_critic_updates=2, n_epochs=2)
    plain = {"normalize_advantage": False} if name == "REINFORCE" else {}
    agent = make_agent(name, policy_kwargs=POLICY, **few, **plain).learn(60)
    agent.save(tmp_path)
    again = again_in(kind, tmp_path)
    assert again.num_timesteps == agent.num_timesteps >= 60
    for attribute in (*hyperparameter_names(kind), *state_names(kind)):
        assert getattr(again, attribute) == getattr(agent, attribute), attribute
    assert_close(weights(again), weights(agent), rtol=0, atol=0)
    states = [run.optimizer.state_dict()["state"] for run in (agent, again)]
    assert_close(states[1], states[0], rtol=0, atol=0)

    # The same rollout, since environments keep their own generators and are not saved.
    rollouts = []
    for run in (agent, again):
        run.progress_remaining = 0.5
        set_learning_rate(run.optimizer, 1e-3)  # as `learn` does before each rollout
        run.collector.seed = 9
        rollouts.append(run.collect())
    assert_close(rollouts[1].actions, rollouts[0].actions)
    assert_close(rollouts[1].log_probs, rollouts[0].log_probs, rtol=0, atol=0)
    assert again.update(rollouts[1]) == agent.update(rollouts[0])
    assert_close(weights(again), weights(agent), rtol=0, atol=0)


def test_what_updates_change_is_saved(make_agent, again_in, tmp_path):
    agent = make_agent("REINFORCE").learn(100)
    assert agent.baseline > 0
    agent.save(tmp_path / "reinforce")
    assert again_in(REINFORCE, tmp_path / "reinforce").baseline == agent.baseline
    agent = make_agent("PPO", kl_loss_coef=0.5, kl_loss_target=1e6, n_epochs=1).learn(20)
    assert agent.kl_loss_coef < 0.5
    agent.save(tmp_path / "ppo")
    assert again_in(PPO, tmp_path / "ppo").kl_loss_coef == agent.kl_loss_coef


def test_predictions_are_the_same(make_agent, again_in, make_text_envs, tmp_path):
    agent = make_agent("PPO", policy_kwargs=POLICY).learn(100)
    agent.save(tmp_path / "run")
    again = again_in(PPO, tmp_path / "run")
    observation, _ = make_text_envs(32).reset(seed=1)
    for deterministic in (True, False):  # the generator of actions is restored, too
        one, other = (
            run.predict(observation, deterministic=deterministic)[0] for run in (agent, again)
        )
        assert np.array_equal(one, other)
    assert_close(agent.policy.predict_values(observation), again.policy.predict_values(observation))
    assert agent.policy.value_head.weight.abs().max() > 0
    assert again.policy.sampling == agent.policy.sampling


def greedy(model, ids: torch.Tensor, steps: int) -> list[int]:
    """A plain loop over transformers' own forward."""
    for _ in range(steps):
        with torch.no_grad():
            following = model(input_ids=ids).logits[0, -1].argmax()
        ids = torch.cat([ids, following[None, None]], dim=1)
    return ids[0].tolist()


@pytest.mark.parametrize("single", [False, True], ids=["native", "gym.make"])
def test_the_folder_opens_with_transformers(
    single, make_agent, make_text_envs, text_kwargs, tmp_path
):
    kwargs = dict(max_new_tokens=4, min_new_tokens=4)
    env = gym.make("TextGen-v0", **text_kwargs(**kwargs))
    agent = make_agent("PPO", envs=env if single else make_text_envs(8, **kwargs)).learn(64)
    agent.save(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    observation, info = env.reset(options={"prompt_index": 2})
    ended, state = False, None
    while not ended:
        action, state = agent.predict(observation, state, deterministic=True)
        observation, _, ended, _, last = env.step(action)
    ids = torch.tensor([tokenizer(info["prompt"])["input_ids"]])
    length = int(observation["attention_mask"].sum())
    text = greedy(model, ids, 4)
    assert text == observation["input_ids"][:length].tolist()
    response = tokenizer.decode(text[ids.shape[1] :], skip_special_tokens=True)
    assert response.split() == last["response"].split()
    generated = model.generate(
        ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0
    )
    if 0 not in text:  # generate forbids the end of sequence before min_new_tokens
        assert generated[0].tolist() == text


def test_small_networks_are_saved_as_well(ungrouped, corridor, weights, tmp_path):
    policy_kwargs = {"net_arch": [16]}
    agent = ungrouped("MlpPolicy", corridor(), n_steps=32, seed=0, policy_kwargs=policy_kwargs)
    agent.learn(64).save(tmp_path)
    again = ungrouped.load(tmp_path, env=corridor())
    assert again.n_steps == 32
    assert_close(weights(again), weights(agent), rtol=0, atol=0)


# Arguments of load


def test_arguments_of_load_take_the_place_of_saved_ones(make_agent, again_in, tmp_path):
    make_agent("PPO", n_epochs=3, clip_range=0.3, policy_kwargs=POLICY).save(tmp_path)
    again = again_in(PPO, tmp_path, clip_range=0.1, policy_kwargs={"temperature": 0.5})
    assert (again.n_epochs, again.clip_range) == (3, 0.1)
    assert again.policy.sampling.temperature == 0.5
    assert again.policy.sampling.banned_tokens == (3,)


def test_functions_among_hyper_parameters_are_asked_for_again(on_cartpole, tmp_path):
    on_cartpole(PPO, n_envs=3, learning_rate=lambda left: 1e-3 * left).save(tmp_path)
    with pytest.raises(ValueError, match=r"learning_rate of the agent .* are functions"):
        PPO.load(tmp_path, "CartPole-v1")
    again = PPO.load(tmp_path, "CartPole-v1", learning_rate=1e-3)
    assert again.env.num_envs == 3


def test_default_functions_need_no_asking(make_agent, again_in, tmp_path):
    agent = make_agent("GRPO")
    agent.save(tmp_path, optimizer=False)
    assert again_in(GRPO, tmp_path).advantage_fn is agent.advantage_fn


# What is in the folder


def test_nothing_in_the_folder_is_pickled(make_agent, tmp_path):
    make_agent("PPO").learn(50).save(tmp_path)
    files = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert {"agent.json", "learning.safetensors", "critic.safetensors", "model.safetensors"} < (
        files
    )
    assert {name.rsplit(".", 1)[-1] for name in files} <= {"json", "safetensors", "jinja", "txt"}
    for file in tmp_path.rglob("*"):
        if file.suffix == ".json":
            json.loads(file.read_text())
    description = json.loads((tmp_path / "agent.json").read_text())
    assert description["algorithm"] == "PPO" and description["policy"] == "CausalLMPolicy"


def test_the_optimizer_may_be_left_out(make_agent, again_in, weights, tmp_path):
    agent = make_agent("PPO").learn(50)
    agent.save(tmp_path, optimizer=False)
    assert not (tmp_path / "learning.safetensors").exists()
    again = again_in(PPO, tmp_path)
    assert not again.optimizer.state_dict()["state"]
    assert_close(weights(again), weights(agent), rtol=0, atol=0)


def test_saving_again_into_the_same_folder_replaces_what_was_there(
    make_agent, again_in, weights, tmp_path
):
    agent = make_agent("PPO").learn(50)
    agent.save(tmp_path)
    agent.learn(50).save(tmp_path, optimizer=False)
    again = again_in(PPO, tmp_path)
    assert_close(weights(again), weights(agent), rtol=0, atol=0)
    # An old optimiser's state does not belong to the new weights.
    assert not again.optimizer.state_dict()["state"]
