"""What every algorithm owes its user: exact first steps, one seed one run, an untouched world."""

from __future__ import annotations

import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from agents import PPO

RATIO = {"PPO", "GRPO"}  # which report the KL to the policy that acted


def largest_change(agent, parameters, before: dict[str, torch.Tensor]) -> float:
    chosen = {id(p) for p in parameters}
    return max(
        (p.detach() - before[name]).abs().max().item()
        for name, p in agent.policy.named_parameters()
        if id(p) in chosen
    )


# The first step


def test_before_the_first_step_the_policy_is_the_one_that_acted(name, make_agent):
    agent = make_agent(name, policy_kwargs={"temperature": 0.7, "banned_tokens": (3,)})
    rollout = agent.collect()
    now = agent.policy.evaluate(rollout)
    assert_close(now.log_probs.detach(), rollout.log_probs, rtol=0, atol=2e-5)
    metrics = agent.update(rollout)
    assert -1e-8 < metrics["first_approx_kl"] < 1e-8
    assert all(map(np.isfinite, metrics.values()))


@pytest.mark.parametrize("name", sorted(RATIO))
def test_a_policy_that_is_not_the_one_that_acted_shows_in_the_first_kl(name, make_agent):
    agent = make_agent(name)
    rollout = agent.collect()
    agent.policy.sampling = agent.policy.sampling.__class__(0.7, (), 8)
    now = agent.policy.evaluate(rollout)
    log_ratios = (now.log_probs.detach() - rollout.log_probs)[rollout.mask]
    by_hand = (log_ratios.exp() - 1 - log_ratios).mean().item()
    first = agent.update(rollout)["first_approx_kl"]
    assert first == pytest.approx(by_hand, rel=1e-3) and first > 1e-3


def test_an_update_moves_the_policy_towards_what_paid(name, make_agent, weights):
    agent = make_agent(name, 64)
    rollout = agent.collect()
    before = weights(agent)
    agent.update(rollout)
    assert largest_change(agent, agent.policy.actor_parameters(), before) > 1e-4
    now = agent.policy.evaluate(rollout)
    totals = rollout.rewards.sum(dim=1)
    gains = ((now.log_probs.detach() - rollout.log_probs) * rollout.mask).sum(dim=1)
    gap = gains[totals > totals.mean()].mean() - gains[totals <= totals.mean()].mean()
    assert gap > 1e-3


# Micro-batches


def rows_at_once(agent, monkeypatch) -> list[int]:
    """How many rows each forward pass with gradient is given, from now on."""
    rows: list[int] = []
    for method in ("evaluate", "evaluate_values"):
        whole = getattr(agent.policy, method)

        def noting(batch, whole=whole, **keywords):
            rows.append(len(batch.mask))
            return whole(batch, **keywords)

        monkeypatch.setattr(agent.policy, method, noting)
    return rows


def test_micro_batches_make_the_step_of_the_whole(name, make_agent, weights, monkeypatch):
    """Rows of different lengths, in parts of unequal size."""
    whole, parts = make_agent(name), make_agent(name, micro_batch_size=5)
    before = weights(whole)
    sizes = [rows_at_once(agent, monkeypatch) for agent in (whole, parts)]
    whole_metrics, metrics = (agent.update(agent.collect()) for agent in (whole, parts))
    assert set(sizes[0]) == {16} and set(sizes[1]) == {5, 1}
    assert largest_change(whole, whole.policy.actor_parameters(), before) > 1e-4
    for parameter, other in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        assert_close(parameter, other, rtol=1e-3, atol=2e-5)
    assert metrics == pytest.approx(whole_metrics, rel=1e-3, abs=1e-5)


def test_micro_batches_of_single_steps(ungrouped, corridor, weights):
    """The same outside of text, where a row is a step."""
    runs, metrics = [], []
    for size in (None, 7):
        envs = gym.vector.SyncVectorEnv([corridor] * 3)
        agent = ungrouped("MlpPolicy", envs, n_steps=20, micro_batch_size=size, seed=0)
        before = weights(agent)
        metrics.append(agent.update(agent.collect()))
        assert largest_change(agent, agent.policy.actor_parameters(), before) > 1e-4
        runs.append(agent)
    for parameter, other in zip(*(run.policy.parameters() for run in runs), strict=True):
        assert_close(parameter, other, rtol=1e-3, atol=1e-6)
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-5)


# Chance


def test_one_seed_gives_one_run_bit_for_bit(name, make_agent, fitting, weights):
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(runs))  # the world's generators make no difference
        np.random.seed(len(runs))  # noqa: NPY002
        few = fitting(name, batch_size=8, n_critic_updates=2, cg_max_steps=3)
        agent = make_agent(name, seed=seed, **few).learn(150)
        runs.append(weights(agent))
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not all(torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


@pytest.mark.parametrize("seeds", [(3, 4), (None, None)])
def test_other_seeds_draw_other_actions_and_minibatches(seeds, make_agent):
    """With one prompt, so that the environment's own chance makes no difference."""
    one, other = (make_agent("PPO", seed=seed, env={"prompts": ["a"]}) for seed in seeds)
    assert not torch.equal(one.collect().actions[:, 0], other.collect().actions[:, 0])
    orders = [torch.randperm(100, generator=agent.generator) for agent in (one, other)]
    assert not torch.equal(*orders)


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("policy", ["CausalLMPolicy", "MlpPolicy", "bundled"])
def test_the_constructor_leaves_the_worlds_generators_alone(
    policy, seed, make_text_envs, make_model, corridor
):
    model = make_model()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    if policy == "MlpPolicy":
        PPO(policy, corridor(), seed=seed)
    elif policy == "bundled":
        PPO("CausalLMPolicy", "TextGen-v0", n_envs=2, seed=seed)
    else:
        PPO(policy, make_text_envs(2), seed=seed, policy_kwargs={"model": model})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_a_gradient_that_is_not_finite_stops_learning(on_cartpole, weights):
    agent = on_cartpole(PPO, n_steps=8)
    rollout = agent.collect()
    rollout.rewards[0, 0] = torch.inf
    before = weights(agent)
    with pytest.raises(FloatingPointError, match=r"gradient is not finite.*learning_rate"):
        agent.update(rollout)
    assert largest_change(agent, agent.policy.parameters(), before) == 0
