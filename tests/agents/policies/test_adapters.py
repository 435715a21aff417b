"""Adapters of PEFT: they act, evaluate, learn alone, and are saved alone."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from agents import PPO, REINFORCE, TRPO
from agents.policies import causal_lm
from textenv.lm import load_model
from textenv.lm.adapters import add_adapters, merged

peft = pytest.importorskip("peft")


def test_adapters_act_evaluate_and_learn_alone(
    make_text_envs, make_model, weights, assert_three_ways_agree
):
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(make_model(), config)
    agent = REINFORCE(
        "CausalLMPolicy", make_text_envs(12), seed=0, learning_rate=1e-2,
        policy_kwargs={"model": model},
    )  # fmt: skip
    assert_three_ways_agree(agent.env, agent.policy)  # dropout is off
    before = weights(agent)
    agent.update(agent.collect())
    changed = {
        name for name, p in agent.policy.named_parameters() if not torch.equal(p, before[name])
    }
    assert changed
    assert all("lora_" in name for name in changed)  # REINFORCE has no critic
    assert {name for name in before if "lora_" in name} == changed
    assert_three_ways_agree(agent.env, agent.policy)


def test_adapters_are_saved_and_go_on_learning(make_text_envs, make_model, next_logits, tmp_path):
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
    logits = next_logits(agent.policy, observation)
    assert_close(next_logits(again.policy, observation), logits, rtol=0, atol=1e-5)
    lengths = torch.from_numpy(observation["attention_mask"].sum(axis=1))
    output = opened(input_ids=torch.from_numpy(observation["input_ids"])).logits
    assert_close(output[torch.arange(8), lengths - 1].detach(), logits, rtol=0, atol=1e-4)
    actions, log_probs, _, _ = again.policy.act(observation)
    own = logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]
    assert_close(log_probs, own, rtol=0, atol=1e-4)
    trainable = [
        {name.replace(".default", "") for name, p in run.policy.named_parameters()
         if p.requires_grad and not name.startswith("critic_body.")}
        for run in (agent, again)
    ]  # fmt: skip
    assert all("lora_" in name or "value_head" in name for name in trainable[1])
    assert len(trainable[0]) == len(trainable[1]) == 2 * 2 + 2
    again.update(again.collect())


def test_adapters_whose_file_lacks_weights_are_refused(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapters")
    load_model(tmp_path / "adapters")
    file = tmp_path / "adapters" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(iter(tensors))]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"is incomplete: its files do not hold the weights '.*lora"
    ):
        load_model(tmp_path / "adapters")


@pytest.fixture
def make_lora_agent(make_text_envs, model_folder):
    """``make_lora_agent(PPO)``: an agent with new adapters in a saved tiny model."""

    def make(cls=PPO, lora=2, **keywords):
        return cls(
            "CausalLMPolicy", make_text_envs(8), seed=0, learning_rate=1e-2, device="cpu",
            policy_kwargs={"model": model_folder, "lora": lora, **keywords},
        )  # fmt: skip

    return make


def test_new_adapters_change_nothing_and_learn_alone(make_lora_agent, model_folder, next_logits):
    state = torch.get_rng_state()
    agent = make_lora_agent(lora={"r": 2, "lora_dropout": 0.5})
    assert torch.equal(torch.get_rng_state(), state)
    plain = PPO("CausalLMPolicy", agent.env, policy_kwargs={"model": model_folder}, device="cpu")
    observation, _ = agent.env.reset(seed=1)
    before = next_logits(agent.policy, observation)
    assert torch.equal(before, next_logits(plain.policy, observation))
    learning = [name for name, p in agent.policy.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "value_head" in name for name in learning)
    assert len([name for name in learning if "lora_A" in name]) == 2 * 7  # layers, matrices
    agent.update(agent.collect())
    assert not torch.equal(before, next_logits(agent.policy, observation))


def test_new_adapters_are_made_and_saved_without_warnings(make_lora_agent, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = make_lora_agent()
        agent.save(tmp_path / "agent")
        PPO.load(tmp_path / "agent", env=agent.env)


def test_new_adapters_are_drawn_from_the_seed(make_text_envs, model_folder):
    def first(seed):
        agent = PPO(
            "CausalLMPolicy", make_text_envs(8), seed=seed, device="cpu",
            policy_kwargs={"model": model_folder, "lora": 2},
        )  # fmt: skip
        return next(p for name, p in agent.policy.named_parameters() if "lora_A" in name)

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


@pytest.mark.parametrize("critic_layers", [0, 1])
def test_an_agent_with_new_adapters_is_loaded_and_merged(
    make_lora_agent, make_text_envs, next_logits, tmp_path, critic_layers
):
    agent = make_lora_agent(critic_layers=critic_layers).learn(80)
    assert not [name for name in agent.policy._critic().state_dict() if "lora" in name]
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent", env=make_text_envs(8), device="cpu")
    agent.policy.merge(tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    observation, _ = make_text_envs(8).reset(seed=1)
    logits = next_logits(agent.policy, observation)
    assert_close(next_logits(again.policy, observation), logits, rtol=0, atol=1e-5)
    assert_close(again.policy.predict_values(observation), agent.policy.predict_values(observation))
    lengths = torch.from_numpy(observation["attention_mask"].sum(axis=1))
    output = merged(input_ids=torch.from_numpy(observation["input_ids"])).logits
    assert_close(output[torch.arange(8), lengths - 1].detach(), logits, rtol=0, atol=1e-4)
    agent.collect(), again.update(again.collect())
    with pytest.raises(FileExistsError, match="is not empty"):
        agent.policy.merge(tmp_path / "merged")


def test_trpo_learns_in_the_space_of_adapters(make_lora_agent):
    agent = make_lora_agent(TRPO, attn_implementation="eager")
    base = [p.clone() for p in agent.policy.parameters() if not p.requires_grad]
    metrics = agent.update(agent.collect())
    assert 0 < metrics["kl"] <= agent.target_kl
    after = [p for p in agent.policy.parameters() if not p.requires_grad]
    assert len(base) > 10 and all(map(torch.equal, base, after))


@pytest.mark.parametrize(
    ("lora", "message"),
    {
        "rank 0": (0, "lora=0 must have a rank r of at least 1"),
        "no rank": ({"lora_alpha": 3}, "must have a rank r of at least 1"),
        "a truth value": (True, "lora=True must have a rank"),
        "no such layers": ({"r": 2, "target_modules": ["nothing"]}, "is refused by peft"),
        "no such argument": ({"r": 2, "rang": 3}, "is refused by peft"),
    }.values(),
)
def test_wrong_adapters_are_refused(make_lora_agent, lora, message):
    with pytest.raises(ValueError, match=message):
        make_lora_agent(lora=lora)


def test_adapters_are_not_put_on_adapters(make_text_envs, make_model):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    with pytest.raises(ValueError, match="has adapters already"):
        PPO(
            "CausalLMPolicy", make_text_envs(8), device="cpu",
            policy_kwargs={"model": peft.get_peft_model(make_model(), config), "lora": 2},
        )  # fmt: skip


def addresses(model) -> set[int]:
    return {parameter.data_ptr() for parameter in model.parameters()}


@pytest.fixture
def make_sharing_agent(model_folder):
    """``make_sharing_agent(PPO)``: the environment's reference is the base of its adapters."""

    def make(cls=PPO, dtype="float32", env=None, **keywords):
        return cls(
            "CausalLMPolicy", "TextGen-v0", n_envs=8, seed=0, learning_rate=1e-2, device="cpu",
            env_kwargs={
                "tokenizer": model_folder, "prompts": ["a film", "the"], "reward": "length(3)",
                "max_new_tokens": 5, "reference": model_folder, "reference_dtype": dtype,
                "kl_coef": 0.1, **(env or {}),
            },
            policy_kwargs={"model": model_folder, "lora": 2, "dtype": dtype, **keywords},
        )  # fmt: skip

    return make


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("again", [False, True])
def test_adapters_share_the_weights_of_the_reference(make_sharing_agent, next_logits, dtype, again):
    agent = make_sharing_agent(dtype=dtype, gradient_checkpointing=again)
    reference = agent.env.shaping.reference
    assert not [name for name, _ in reference.named_parameters() if "lora" in name]
    own, acting = addresses(agent.policy.model), addresses(agent.policy.acting_model())
    assert addresses(reference) <= own & acting
    before = [p.clone() for p in reference.parameters()]

    def log_probs(rollout):
        now = agent.policy.evaluate(rollout)
        return now.log_probs.detach()

    rollout = agent.collect()
    assert torch.equal(log_probs(rollout), rollout.reference_log_probs)  # the KL is exactly 0
    agent.update(rollout)
    assert all(map(torch.equal, before, reference.parameters()))
    rollout = agent.collect()
    assert not torch.equal(log_probs(rollout), rollout.reference_log_probs)
    with agent.policy.model.disable_adapter():
        assert torch.equal(log_probs(rollout), rollout.reference_log_probs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loaded_adapters_share_them_too(make_sharing_agent, tmp_path, dtype):
    agent = make_sharing_agent(dtype=dtype).learn(40)
    agent.save(tmp_path / "agent")
    again = PPO.load(tmp_path / "agent", device="cpu")
    assert addresses(again.env.shaping.reference) <= addresses(again.policy.model)
    agent.learn(40, reset_num_timesteps=False)
    again.learn(40, reset_num_timesteps=False)
    for one, other in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_that_learns_as_a_whole_shares_nothing(make_sharing_agent):
    agent = make_sharing_agent(lora=None)
    assert all(p.requires_grad for p in agent.policy.model.parameters())
    assert not addresses(agent.policy) & addresses(agent.env.shaping.reference)


def test_a_live_reference_is_shared_and_gets_no_adapters(make_text_envs, make_model):
    model = make_model()
    agent = PPO(
        "CausalLMPolicy", make_text_envs(8, reference=model, kl_coef=0.1), device="cpu",
        policy_kwargs={"model": model, "lora": 2},
    )  # fmt: skip
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert addresses(model) <= addresses(agent.policy.model)
    assert all(p.requires_grad for p in model.parameters())  # it may still learn elsewhere
    agent.learn(40)


def test_adapters_that_are_the_reference_are_not_shared(make_sharing_agent, tmp_path):
    """A run from a folder of adapters, whose reference is what they begin as."""
    make_sharing_agent().learn(40).save(tmp_path / "adapters")
    folder = str(tmp_path / "adapters")
    agent = make_sharing_agent(model=folder, lora=None, env={"reference": folder})
    assert not addresses(agent.policy.model) & addresses(agent.env.shaping.reference)
    agent.learn(40)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_weights_are_those_of_the_policy(make_sharing_agent, tmp_path, dtype):
    agent = make_sharing_agent(dtype=dtype).learn(80)
    agent.policy.merge(tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.float32
    base = dict(agent.env.shaping.reference.named_parameters())
    layer = agent.policy.model.get_base_model().model.layers[0].mlp.up_proj
    name = "model.layers.0.mlp.up_proj.weight"
    exact = base[name].float() + layer.get_delta_weight("default")
    assert_close(merged.get_parameter(name), exact, rtol=0, atol=1e-6)
    assert not torch.equal(exact, base[name].float())


def test_a_frozen_model_in_bfloat16_acts(make_text_envs, make_model):
    model = make_model().to(torch.bfloat16).requires_grad_(False)
    agent = PPO(
        "CausalLMPolicy", make_text_envs(8), device="cpu",
        policy_kwargs={"model": model, "dtype": "bfloat16"},
    )  # fmt: skip
    agent.learn(40)  # its value head


TIED = [["lm_head"], ["embed_tokens"], ["q_proj", "lm_head", "embed_tokens"], ["q_proj"]]


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings", "ignore:Model has `tie_word")
@pytest.mark.parametrize(
    ("modules", "learned"),
    [(modules, False) for modules in TIED] + [(["q_proj"], True), (["embed_tokens"], True)],
)
def test_adapters_of_tied_embeddings_are_merged_into_their_own_side(
    make_model, modules, learned, tmp_path
):
    """One matrix is both embeddings and head: what is merged into the one must not be in both."""
    model = make_model()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    lora = {"r": 2, "target_modules": modules, "init_lora_weights": False}
    adapted = add_adapters(model, lora | ({"modules_to_save": ["lm_head"]} if learned else {}))
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name:
                weight.add_(0.3)
        logits = adapted(tokens).logits
        whole = merged(adapted)
        assert_close(whole(tokens).logits, logits, rtol=0, atol=1e-5)
        whole.save_pretrained(tmp_path)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        assert_close(again(tokens).logits, logits, rtol=0, atol=1e-5)
        assert_close(adapted(tokens).logits, logits)  # which was only copied


def test_under_autocast_adapters_read_what_comes(make_sharing_agent, monkeypatch):
    agent, now, gradients, copies = make_sharing_agent(dtype="bfloat16").learn(40), [], [], []
    rollout = agent.collect()
    for block in (causal_lm.without_casts, lambda model: nullcontext()):
        monkeypatch.setattr(causal_lm, "without_casts", block)
        with profile(activities=[ProfilerActivity.CPU]) as events:
            now.append(agent.policy.evaluate(rollout).log_probs)
        agent.policy.zero_grad()
        now[-1].sum().backward()
        gradients.append([p.grad.clone() for p in agent.policy.actor_parameters()])
        copies.append(sum(e.count for e in events.key_averages() if e.key == "aten::_to_copy"))
    assert torch.equal(*now) and copies[0] < 0.8 * copies[1]
    one, other = (torch.cat([part.flatten() for part in each]) for each in gradients)
    assert (one - other).norm() < 0.01 * one.norm()
    for layer in agent.policy.model.modules():
        assert getattr(layer, "cast_input_dtype_enabled", True)  # as it was


@pytest.mark.parametrize("again", [False, True])
def test_adapters_of_tokens_learn_in_bfloat16(make_text_envs, make_model, again):
    lora = {"r": 2, "trainable_token_indices": [5, 6]}
    agent = PPO(
        "CausalLMPolicy", make_text_envs(8), device="cpu", seed=0,
        policy_kwargs={
            "model": make_model(), "lora": lora, "dtype": "bfloat16",
            "gradient_checkpointing": again,
        },
    )  # fmt: skip
    before = [p.detach().clone() for p in agent.policy.actor_parameters()]
    agent.learn(80)
    changed = zip(before, agent.policy.actor_parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in changed)
