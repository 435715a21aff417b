"""The plan of memory, against what learning takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agents import GRPO, PPO, TRPO
from agents.training.memory_plan import GIGABYTE, MemoryPlan, free_memory, memory_plan, rows_at_once


@pytest.fixture
def make(model_folder):
    """``make(PPO, model={...}, env={...}, ...)``: an agent with a reference."""

    def make_agent(cls=PPO, model=None, **given: Any):
        return cls(
            "CausalLMPolicy", "TextGen-v0", n_envs=given.pop("n_envs", 8), seed=0, device="cpu",
            env_kwargs={
                "reference": model_folder, "kl_coef": 0.1, "max_new_tokens": 6,
                "prompts": ["a film", "the"], "reward": "length(3)", "tokenizer": model_folder,
                **given.pop("env", {}),
            },
            policy_kwargs={"model": model_folder, **cls.policy_needs, **(model or {})}, **given,
        )  # fmt: skip

    return make_agent


def bytes_of(parameters) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def test_weights_gradients_and_moments_are_those_that_there_are(make):
    agent = make()
    reference = bytes_of(agent.env.shaping.reference.parameters())
    own = bytes_of(agent.policy.parameters())
    plan = memory_plan(agent)
    assert plan.weights == own + reference
    assert plan.learning == 3 * own
    agent.learn(1)
    state = [t for values in agent.optimizer.state.values() for t in values.values() if t.ndim]
    gradients = [p.grad for p in agent.policy.parameters()]
    assert plan.learning == bytes_of([*state, *gradients])


def test_shared_weights_count_once(make):
    agent = make(model={"lora": 2, "dtype": "bfloat16"}, env={"reference_dtype": "bfloat16"})
    reference = bytes_of(agent.env.shaping.reference.parameters())
    learning = bytes_of(p for p in agent.policy.parameters() if p.requires_grad)
    head = bytes_of(agent.policy.value_head.parameters())
    plan = memory_plan(agent)
    assert plan.weights == reference + learning + (learning - head) // 2  # those that act
    assert plan.learning == 3 * learning


@pytest.mark.parametrize("critic_layers", [0, 1])
def test_the_cache_is_that_of_a_rollout(make, critic_layers):
    agent = make(model={"critic_layers": critic_layers})
    observation, _ = agent.env.reset(seed=0)
    state = agent.policy.act(observation)[-1]
    caches = [decoder.cache for decoder in (state.policy, state.critic) if decoder is not None]
    tables = [t for cache in caches for layer in cache.layers for t in (layer.keys, layer.values)]
    assert memory_plan(agent).cache == bytes_of(tables)


def test_activations_are_those_of_a_part_of_a_batch(make):
    whole = memory_plan(make(batch_size=8)).activations
    half = memory_plan(make(batch_size=4)).activations
    micro = memory_plan(make(batch_size=8, micro_batch_size=4)).activations
    assert half == micro
    assert whole == pytest.approx(2 * half, rel=0.05)  # some masks are as large for any rows
    assert memory_plan(make(GRPO, batch_size=None, group_size=4)).activations > 0


def test_what_is_kept_for_the_backward_pass_is_foreseen(make):
    agent = make(batch_size=8, env={"prompts": [f"a film {n}" for n in range(9)]})
    rollout = agent.collect()
    rollout.mask[:] = True
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        agent.policy.evaluate(rollout)
    for parameter in agent.policy.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    assert memory_plan(agent).activations == pytest.approx(sum(kept.values()), rel=0.5)


def test_the_plan_changes_nothing_and_serves_every_algorithm(make):
    agent, other = make(TRPO, n_envs=4), make(TRPO, n_envs=4)
    state = torch.get_rng_state()
    memory_plan(agent)
    assert torch.equal(torch.get_rng_state(), state)
    agent.learn(1), other.learn(1)
    assert rows_at_once(agent) == 4 * 3  # second derivatives of all rows
    for one, two in zip(agent.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_advice_names_the_option_for_the_largest_part():
    def advice(free, **parts):
        sizes = {"weights": 1, "learning": 1, "cache": 1, "activations": 1} | parts
        plan = MemoryPlan(**{name: int(size * GIGABYTE) for name, size in sizes.items()})
        return plan.advice(None if free is None else free * GIGABYTE)

    assert advice(3) is None and advice(None) is None
    assert (
        advice(0.1, learning=2)
        == "Only 100 MB are free beside the weights: learn adapters, --lora 16."
    )
    assert "--n-envs" in advice(2.9, cache=2) and "Only 2.9 GB" in advice(2.9, cache=2)
    assert "--micro-batch-size" in advice(2, activations=9)
    assert str(MemoryPlan(10**9, 2 * 10**9, 10**7, 0)) == (
        "3.0 GB at most: weights 1.0 GB, gradients and optimiser 2.0 GB, cache 10 MB, "
        "activations 0 MB"
    )


def test_the_free_memory_of_this_machine():
    free = free_memory(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e14
