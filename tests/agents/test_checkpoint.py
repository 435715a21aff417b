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
from agents import PPO, REINFORCE

NAMES = agents.algorithms.__all__
GROUPED = {"GRPO", "RLOO"}


@pytest.fixture
def make_agent(make_text_envs, make_model):
    def make(name: str, **kwargs):
        kind = getattr(agents.algorithms, name)
        if name in GROUPED:
            kwargs = {"group_size": 4} | kwargs
        policy_kwargs = {
            "model": make_model(), "attn_implementation": "eager", "temperature": 0.8,
            "banned_tokens": [3],
        }  # fmt: skip
        return kind(
            "CausalLMPolicy", envs_for(name, make_text_envs, make_model), seed=0,
            policy_kwargs=policy_kwargs, **kwargs,
        )  # fmt: skip

    return make


def envs_for(name: str, make_text_envs, make_model):
    kwargs = {"group_size": 4} if name in GROUPED else {}
    if name == "GRPO":
        kwargs["reference"] = make_model(seed=1)
    return make_text_envs(8, stop=[5], **kwargs)


def parameters(agent) -> dict[str, torch.Tensor]:
    return dict(agent.policy.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_learning_goes_on_after_load_as_without_the_break(
    name, make_agent, make_text_envs, make_model, tmp_path
):
    plain = {"normalize_advantage": False} if name == "REINFORCE" else {}
    agent = make_agent(name, batch_size=4, **plain).learn(100)
    agent.save(tmp_path)
    envs = envs_for(name, make_text_envs, make_model)
    again = getattr(agents.algorithms, name).load(tmp_path, env=envs)
    assert again.num_timesteps == agent.num_timesteps >= 100
    assert again.hyperparameters() == agent.hyperparameters()
    assert [getattr(again, number) for number in agent.learned] == [
        getattr(agent, number) for number in agent.learned
    ]
    assert_close(dict(parameters(again)), dict(parameters(agent)), rtol=0, atol=0)
    states = [run.optimizer.state_dict()["state"] for run in (agent, again)]
    assert_close(states[1], states[0], rtol=0, atol=0)

    # The same rollout, since environments keep their own generators and are not saved.
    rollouts = []
    for run in (agent, again):
        run.progress_remaining = 0.5
        run.env.reset(seed=9)
        run._begun = True
        rollouts.append(run.collect())
    assert_close(rollouts[1].actions, rollouts[0].actions)
    assert_close(rollouts[1].log_probs, rollouts[0].log_probs, rtol=0, atol=0)
    assert again.update(rollouts[1]) == agent.update(rollouts[0])
    assert_close(dict(parameters(again)), dict(parameters(agent)), rtol=0, atol=0)


def test_predictions_are_the_same(make_agent, make_text_envs, tmp_path):
    agent = make_agent("PPO").learn(100)
    agent.save(tmp_path / "run")
    again = PPO.load(tmp_path / "run", env=make_text_envs(8, stop=[5]))
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
    single, make_text_envs, text_kwargs, make_model, tmp_path
):
    kwargs = dict(max_new_tokens=4, min_new_tokens=4)
    env = gym.make("TextGen-v0", **text_kwargs(**kwargs))
    agent = PPO(
        "CausalLMPolicy", env if single else make_text_envs(8, **kwargs), seed=0,
        learning_rate=1e-2, policy_kwargs={"model": make_model()},
    ).learn(64)  # fmt: skip
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


@pytest.mark.parametrize("name", sorted(set(NAMES) - GROUPED))
def test_small_networks_are_saved_as_well(name, corridor, tmp_path):
    kind = getattr(agents.algorithms, name)
    policy_kwargs = {"net_arch": [16]}
    agent = kind("MlpPolicy", corridor(), n_steps=32, seed=0, policy_kwargs=policy_kwargs)
    agent.learn(64).save(tmp_path)
    again = kind.load(tmp_path, env=corridor())
    assert again.n_steps == 32
    assert_close(dict(parameters(again)), dict(parameters(agent)), rtol=0, atol=0)


def test_arguments_of_load_take_the_place_of_saved_ones(make_agent, make_text_envs, tmp_path):
    make_agent("PPO", n_epochs=3, clip_range=0.3).save(tmp_path)
    again = PPO.load(
        tmp_path, env=make_text_envs(8), clip_range=0.1, policy_kwargs={"temperature": 0.5}
    )
    assert (again.n_epochs, again.clip_range) == (3, 0.1)
    assert again.policy.sampling.temperature == 0.5
    assert again.policy.sampling.banned_tokens == (3,)


def test_adapters_are_saved_and_go_on_learning(make_text_envs, make_model, tmp_path):
    peft = pytest.importorskip("peft")
    make_model().save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    agent = PPO(
        "CausalLMPolicy", make_text_envs(8), seed=0, learning_rate=1e-2,
        policy_kwargs={"model": peft.get_peft_model(base, config)},
    ).learn(80)  # fmt: skip
    agent.save(tmp_path / "run")
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    again = PPO.load(tmp_path / "run", env=make_text_envs(8))
    observation, _ = make_text_envs(8).reset(seed=1)
    agent.policy.act(observation)
    again.policy.act(observation)
    assert_close(again.policy.last_logits, agent.policy.last_logits, rtol=0, atol=1e-5)
    lengths = torch.from_numpy(observation["attention_mask"].sum(axis=1))
    output = opened(input_ids=torch.from_numpy(observation["input_ids"])).logits
    logits = output[torch.arange(8), lengths - 1].detach().log_softmax(-1)
    assert_close(agent.policy.last_logits.log_softmax(-1), logits, rtol=0, atol=1e-4)
    trainable = [
        {name.replace(".default", "") for name, p in parameters(run).items() if p.requires_grad}
        for run in (agent, again)
    ]
    assert all("lora_" in name or "value_head" in name for name in trainable[1])
    assert len(trainable[0]) == len(trainable[1]) == 2 * 2 + 2
    again.update(again.collect())


# What is in the folder


def test_nothing_in_the_folder_is_pickled(make_agent, tmp_path):
    make_agent("PPO").learn(50).save(tmp_path)
    files = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert {"agent.json", "learning.safetensors", "value_head.safetensors", "model.safetensors"} < (
        files
    )
    assert {name.rsplit(".", 1)[-1] for name in files} <= {"json", "safetensors", "jinja", "txt"}
    for file in tmp_path.rglob("*"):
        if file.suffix == ".json":
            json.loads(file.read_text())
    description = json.loads((tmp_path / "agent.json").read_text())
    assert description["algorithm"] == "PPO" and description["policy"] == "CausalLMPolicy"


def test_the_optimizer_may_be_left_out(make_agent, make_text_envs, tmp_path):
    agent = make_agent("PPO").learn(50)
    agent.save(tmp_path, optimizer=False)
    assert not (tmp_path / "learning.safetensors").exists()
    again = PPO.load(tmp_path, env=make_text_envs(8))
    assert not again.optimizer.state_dict()["state"]
    assert_close(dict(parameters(again)), dict(parameters(agent)), rtol=0, atol=0)


def test_saving_again_into_the_same_folder_replaces_what_was_there(
    make_agent, make_text_envs, tmp_path
):
    agent = make_agent("PPO").learn(50)
    agent.save(tmp_path)
    agent.learn(50).save(tmp_path, optimizer=False)
    again = PPO.load(tmp_path, env=make_text_envs(8))
    assert_close(dict(parameters(again)), dict(parameters(agent)), rtol=0, atol=0)
    # An old optimiser's state does not belong to the new weights.
    assert not again.optimizer.state_dict()["state"]


# Bad input


def test_an_agent_of_another_class_is_named(make_agent, make_text_envs, tmp_path):
    make_agent("PPO").save(tmp_path)
    with pytest.raises(ValueError, match=r"holds a PPO, not a REINFORCE: open it with PPO\.load"):
        REINFORCE.load(tmp_path, env=make_text_envs(8))


def test_a_missing_folder_is_named(make_text_envs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no agent in .*nowhere"):
        PPO.load(tmp_path / "nowhere", env=make_text_envs(8))
