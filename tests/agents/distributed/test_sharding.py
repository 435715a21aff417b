"""Weights that are sharded among processes learn as whole ones do (FSDP2, gloo, CPU)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shares import CALM, CUTS, HALVES, rows_of
from torch import Tensor
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

import agents.agent
from agents import PPO, TRPO, distributed
from agents.training.optimization import make_optimizer
from textenv.lm import load_tokenizer


def whole_weights(agent: Any) -> dict[str, Tensor]:
    return {
        name: distributed.whole(weight).detach().clone()
        for name, weight in agent.policy.named_parameters()
    }


def sharded(agent: Any) -> Any:
    """The agent, made by one process, as if several had made it."""
    agent.policy.shard()
    agent.optimizer = make_optimizer(
        agent.trained_parameters(), agent.learning_rate, agent.weight_decay, agent.adam_epsilon
    )
    agent.gather()
    return agent


def assert_same_update(agent: Any, cuts: Any, in_processes: Any) -> None:
    """An update of processes that share the weights is that of this one."""
    with torch.no_grad():
        for parameter in agent.policy.critic_parameters():
            parameter += 0.1
    rollout = agent.collect()

    def learn(part: slice) -> tuple[dict[str, float], dict[str, Tensor], int]:
        mine = rows_of(rollout, part)
        mine.in_step = distributed.in_step
        metrics = sharded(agent).update(mine)
        own = sum(distributed.own_part(p).numel() for p in agent.policy.parameters())
        return metrics, whole_weights(agent), own

    before = whole_weights(agent)
    found = in_processes(*(lambda cut=cut: learn(cut) for cut in cuts))
    metrics, after = agent.update(rollout), whole_weights(agent)
    assert max((after[name] - before[name]).abs().max() for name in after) > 1e-4
    every = sum(p.numel() for p in agent.policy.parameters())
    for metrics_here, weights_here, own in found:
        assert metrics_here == pytest.approx(metrics, rel=1e-4, abs=1e-5)
        assert own < every
        for name in after:
            assert_close(weights_here[name], after[name], rtol=0, atol=1e-6)
            assert torch.equal(weights_here[name], found[0][1][name])


@pytest.fixture
def sharing(name) -> str:
    if name == "TRPO":
        pytest.skip("refused")
    return name


QUICK = ("one part is empty",)  # the others are tried in the slow run


@pytest.mark.parametrize(
    "cut", [pytest.param(cut, marks=[] if cut in QUICK else [pytest.mark.slow]) for cut in CUTS]
)
def test_an_update_is_that_of_one_process(cut, sharing, make_agent, fitting, in_processes):
    few = fitting(sharing, n_epochs=2, batch_size=None, micro_batch_size=5)
    assert_same_update(make_agent(sharing, **CALM, **few), CUTS[cut], in_processes)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{"critic_layers": 1}, {"gradient_checkpointing": True}])
def test_other_policies(policy, make_agent, in_processes):
    agent = make_agent(
        "PPO", policy_kwargs=policy, **CALM, batch_size=None, n_epochs=2, micro_batch_size=5
    )
    assert_same_update(agent, HALVES, in_processes)


def saved(folder: Path) -> dict[str, Tensor]:
    """The weights and the moments of the optimiser in an agent's folder."""
    return {
        f"{file.name}/{name}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
        if not name.startswith(("generator", "state"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{}, {"critic_layers": 1}, {"dtype": "bfloat16"}])
def test_what_is_saved_is_that_of_whole_weights(policy, text_agent, tmp_path, in_processes):
    def learn(shard):
        agent = text_agent(shard=shard, policy=policy, batch_size=None, **CALM).learn(300)
        agent.save(tmp_path / shard)

    for shard in ("none", "full"):
        in_processes(*[lambda shard=shard: learn(shard)] * 2)
    none, full = saved(tmp_path / "none"), saved(tmp_path / "full")
    assert none.keys() == full.keys() and any("optimizer" in name for name in full)
    for name, tensor in none.items():
        assert_close(
            full[name], tensor, rtol=1e-3, atol=1e-6 if policy.get("dtype") is None else 1e-4
        )


@pytest.mark.parametrize("count", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_another_number_of_processes_goes_on(count, text_agent, tmp_path, in_processes):
    def learn():
        text_agent(shard="full", policy={"critic_layers": 1}).learn(200).save(tmp_path / "agent")

    def go_on():
        agent = PPO.load(tmp_path / "agent", device="cpu")
        agent.save(tmp_path / "again")
        weights = whole_weights(agent)
        assert agent.policy.sharded == (count > 1)
        agent.learn(200, reset_num_timesteps=False)
        return weights, whole_weights(agent), agent.num_timesteps

    in_processes(learn, learn)
    found = in_processes(*[go_on] * count)
    before, again = saved(tmp_path / "agent"), saved(tmp_path / "again")
    assert before.keys() == again.keys()
    for name, tensor in before.items():
        assert torch.equal(again[name], tensor), name
    for weights, after, timesteps in found:
        assert timesteps >= 400 and any(not torch.equal(after[k], weights[k]) for k in after)
        assert all(torch.equal(after[name], found[0][1][name]) for name in after)


def test_what_a_failed_step_has_left_is_forgotten(text_agent, in_processes):
    def learn():
        agent = text_agent(shard="full", batch_size=None, micro_batch_size=2, **CALM)
        rollout, loss, parts = agent.collect(), agent.loss, []

        def failing(batch):
            parts.append(batch)
            if len(parts) == 2:
                raise ArithmeticError
            return loss(batch)

        norm = agent.update(rollout)["grad_norm"]
        again = text_agent(shard="full", batch_size=None, micro_batch_size=2, **CALM)
        again.loss, after = failing, again.loss
        with pytest.raises(ArithmeticError):
            again.update(rollout)
        again.loss = after
        return norm, again.update(rollout)["grad_norm"]

    for norm, again in in_processes(learn, learn):
        assert again == pytest.approx(norm, rel=1e-6)


def test_tied_weights_are_saved_once_and_merged(tmp_path, in_processes):
    def learn(shard):
        agent = PPO("CausalLMPolicy", "TextGen-v0", n_envs=8, seed=0, device="cpu", shard=shard)
        agent.save(tmp_path / shard, optimizer=False)
        agent.policy.merge(tmp_path / f"merged-{shard}")
        if distributed.is_main():  # one alone may make another agent
            assert not PPO.load(tmp_path / shard, device="cpu", shard="none").policy.sharded

    for shard in ("none", "full"):
        in_processes(*[lambda shard=shard: learn(shard)] * 2)
    for kind in ("", "merged-"):
        none, full = (
            load_file(tmp_path / f"{kind}{each}/model.safetensors") for each in ("none", "full")
        )
        assert none.keys() == full.keys() and all(torch.equal(none[k], full[k]) for k in none)


def test_what_is_refused(text_agent, make_agent, in_processes):
    def make():
        with pytest.raises(ValueError, match="TRPO needs second derivatives"):
            text_agent(TRPO, shard="full")
        with pytest.raises(ValueError, match="adapters do"):
            text_agent(shard="full", policy={"lora": 2})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(agents.agent, "SHARDED_FROM", 1)
            assert not text_agent(shard="auto", policy={"lora": 2}).policy.sharded
            assert text_agent(shard="auto").policy.sharded
        with pytest.raises(ValueError, match="shard='part' is unknown: use one of auto, none"):
            text_agent(shard="part")
        with pytest.raises(ValueError, match="not for MlpPolicy"):
            PPO("MlpPolicy", "CartPole-v1", shard="full", device="cpu")
        assert not text_agent(shard="auto").policy.sharded

    in_processes(make, make)
    assert not text_agent(shard="full").policy.sharded  # alone there is nobody to share with


@pytest.mark.slow
def test_the_memory_that_learning_needs_is_shared(in_processes, tmp_path):
    """Of 50 million weights: they, their gradients and moments, as an optimiser step finds them,
    with the two copies of the largest layer that a pass gathers and whose gradient it holds."""
    size = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 16}
    config = LlamaConfig(vocab_size=1536, num_attention_heads=8, **size)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "large")
    load_tokenizer("bundled").save_pretrained(tmp_path / "large")

    def learn(shard):
        task = {"prompts": ["a"], "reward": "length(3)", "max_new_tokens": 2}
        agent = PPO(
            "CausalLMPolicy", "TextGen-v0", n_envs=4, device="cpu", env_kwargs=task, shard=shard,
            policy_kwargs={"model": str(tmp_path / "large"), "critic_layers": 0},
        )  # fmt: skip
        found = []

        def measure(optimizer, *_):
            parts = [p for group in optimizer.param_groups for p in group["params"]]
            moments = [v for entry in optimizer.state.values() for v in entry.values()]
            tensors = [*parts, *(p.grad for p in parts if p.grad is not None), *moments]
            layer = sum(p.numel() for p in agent.policy.body.layers[0].parameters())
            gathered = 2 * 4 * layer if agent.policy.sharded else 0
            storages = [tensor.untyped_storage() for tensor in tensors]  # some are shared
            sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
            found.append(gathered + sum(sizes.values()))

        agent.optimizer.register_step_post_hook(measure)
        agent.learn(8)
        return max(found)

    (alone,) = in_processes(lambda: learn("full"))
    for each in in_processes(*[lambda: learn("full")] * 2):
        assert each < 0.6 * alone
    assert alone > 16 * 50e6
