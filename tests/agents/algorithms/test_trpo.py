"""TRPO: the length of its step, its line search, and a critic that is fitted by itself."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from torch.testing import assert_close

from agents import TRPO
from agents.functional import natural_gradient as natural
from agents.training.optimization import hessian_operator, value_and_gradient
from textenv.lm.parts import Head, unwrapped


@pytest.fixture
def trpo(make_agent):
    """``trpo(num_envs, ...)``: TRPO on tiny random text."""
    return lambda num_envs=32, **kwargs: make_agent("TRPO", num_envs, **kwargs)


def flat(agent) -> torch.Tensor:
    return natural.flatten(agent.policy.actor_parameters()).detach().clone()


@pytest.mark.parametrize("damping", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("text", [True, False], ids=["text", "cartpole"])
def test_the_whole_step_reaches_the_edge_of_the_region_whatever_the_damping(
    text, damping, trpo, on_cartpole
):
    settings = dict(cg_damping=damping, target_kl=1e-3, fisher_rows=None)
    agent = trpo(64, **settings) if text else on_cartpole(TRPO, n_steps=128, **settings)
    # A fitted KL is a little above or below ½ xᵀHx = δ; above it the search takes one step back.
    agent.line_search_shrinking_factor = 0.97
    metrics = agent.update(agent.collect())
    assert metrics["step_fraction"] > 0.9
    assert agent.target_kl / 2 <= metrics["kl"] <= agent.target_kl
    assert metrics["improvement"] > 0


def test_the_step_has_the_length_of_the_undamped_fisher_matrix(trpo):
    """½ xᵀHx = δ, with H by second derivatives of the KL over all actions, row by row."""
    agent = trpo(12, cg_damping=5.0, target_kl=1e-3, fisher_rows=None)
    rollout = agent.collect()
    advantages, _ = agent.estimated_advantages(rollout)
    parameters, parts = agent.policy.actor_parameters(), agent.parts(rollout, advantages=advantages)
    _, gradient = value_and_gradient(agent.surrogate_loss, parts, parameters)
    fisher = hessian_operator(agent.kl_to_itself, parts, parameters)
    step = natural.natural_step(fisher, gradient, 1e-3, 5.0, agent.cg_max_steps)
    assert (0.5 * step @ fisher(step)).item() == pytest.approx(1e-3, rel=1e-4)
    before = flat(agent)
    metrics = agent.trust_region_step(rollout, advantages)
    moved = flat(agent) - before
    assert_close(moved, metrics["step_fraction"] * step, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("fisher_rows", [None, 7])
def test_micro_batches_make_the_same_step_without_ever_holding_the_whole(
    fisher_rows, trpo, monkeypatch
):
    settings = dict(fisher_rows=fisher_rows, n_critic_updates=1, cg_max_steps=4)
    whole = trpo(24, **settings)
    parts = trpo(24, micro_batch_size=5, **settings)
    rows = []
    evaluate = parts.policy.evaluate

    def noting(batch, entropy=False):
        rows.append(len(batch.mask))
        return evaluate(batch, entropy)

    monkeypatch.setattr(parts.policy, "evaluate", noting)
    before = flat(whole)
    metrics = [agent.update(agent.collect()) for agent in (whole, parts)]
    assert max(rows) == 5
    assert (flat(whole) - before).abs().max() > 1e-3
    assert_close(flat(parts), flat(whole), rtol=1e-3, atol=1e-5)
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-5)


def test_the_fisher_matrix_is_estimated_from_so_many_rows(trpo, monkeypatch):
    agent = trpo(24, fisher_rows=7)
    rows, kl_to_itself = [], agent.kl_to_itself

    def noting(batch):
        rows.append(len(batch))
        return kl_to_itself(batch)

    monkeypatch.setattr(agent, "kl_to_itself", noting)
    agent.update(agent.collect())
    assert rows == [7]


def test_the_kl_is_the_exact_one_of_the_whole_vocabulary(trpo):
    agent = trpo(16, n_critic_updates=1)
    rollout = agent.collect()

    def distributions() -> torch.Tensor:
        lengths = rollout.observations["prompt_lengths"][:, None]
        columns = (lengths + torch.arange(rollout.mask.shape[1]) - 1)[rollout.mask]
        rows = rollout.mask.nonzero()[:, 0]
        with torch.no_grad():
            logits = agent.policy.model(input_ids=rollout.observations["input_ids"]).logits
        return logits[rows, columns].double().log_softmax(-1)

    before = distributions()
    metrics = agent.update(rollout)
    after = distributions()
    kl = (before.exp() * (before - after)).sum(-1).mean().item()
    assert metrics["kl"] == pytest.approx(kl, rel=1e-2) and kl > 1e-4


# Where no step can be taken


def test_a_step_that_improves_nothing_leaves_the_policy_where_it_was(trpo):
    agent = trpo(16)
    rollout = agent.collect()
    rollout.rewards, rollout.values = (torch.zeros_like(rollout.rewards) for _ in range(2))
    rollout.next_values = torch.zeros_like(rollout.rewards)
    before = flat(agent)
    metrics = agent.update(rollout)
    assert metrics["step_fraction"] == 0 == metrics["kl"]
    assert torch.equal(flat(agent), before)


def test_the_line_search_shortens_a_step_that_goes_too_far(trpo, monkeypatch):
    agent = trpo(32, n_critic_updates=1)
    step = natural.natural_step
    monkeypatch.setattr(natural, "natural_step", lambda *args: 3 * step(*args))
    metrics = agent.update(agent.collect())
    assert 0 < metrics["step_fraction"] < 0.5
    assert 0 < metrics["kl"] <= agent.target_kl


# The critic


def test_the_critic_is_fitted_without_the_head_of_the_language_model(trpo):
    agent = trpo(16, n_critic_updates=4)
    rollout = agent.collect()
    calls = []
    head = unwrapped(agent.policy.model).get_output_embeddings()
    head.register_forward_hook(lambda *_: calls.append(1))
    advantages, returns = agent.estimated_advantages(rollout)
    agent.trust_region_step(rollout, advantages)
    assert calls
    calls.clear()
    before = agent.policy.value_head.weight.detach().clone()
    agent.optimize(rollout, agent.n_critic_updates, agent.batch_size, returns=returns)
    assert not calls
    assert not torch.equal(agent.policy.value_head.weight, before)


def test_fitting_the_critic_does_not_move_the_policy(trpo):
    agent = trpo(16)
    rollout = agent.collect()
    before = flat(agent)
    agent.optimize(rollout, 5, returns=agent.estimated_advantages(rollout)[1])
    assert torch.equal(flat(agent), before)


@pytest.mark.parametrize("text", [True, False], ids=["text", "cartpole"])
def test_the_critic_is_fitted_to_the_returns(text, trpo, on_cartpole):
    agent = (
        trpo(32, n_critic_updates=60)
        if text
        else on_cartpole(TRPO, n_critic_updates=60, learning_rate=1e-2)
    )
    rollout = agent.collect()
    _, returns = agent.estimated_advantages(rollout)
    variance = (returns - rollout.values)[rollout.mask].square().mean()
    agent.update(rollout)
    values = agent.policy.evaluate_values(rollout)
    assert (returns - values)[rollout.mask].square().mean() < 0.8 * variance


# Memory


def test_the_head_of_the_old_policy_is_copied_once_for_all_parts(trpo, monkeypatch):
    agent = trpo(24, micro_batch_size=3, n_critic_updates=1, cg_max_steps=3)
    copies, frozen = [], Head.frozen

    def noting(head):
        found = frozen(head)
        copies.append(found)
        return found

    monkeypatch.setattr(Head, "frozen", noting)
    agent.update(agent.collect())
    assert len(copies) > 8 and len({id(copy) for copy in copies}) == 1


# Making it


def test_a_model_is_loaded_as_it_is_needed():
    agent = TRPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=4, env_kwargs={"max_new_tokens": 4}, device="cpu",
        fisher_rows=2, cg_max_steps=2,
    )  # fmt: skip
    assert unwrapped(agent.policy.model).config._attn_implementation == "eager"
    metrics = agent.update(agent.collect())
    assert 0 <= metrics["kl"] <= agent.target_kl


def test_a_live_model_that_has_no_second_derivatives_is_refused(make_text_envs, model_folder):
    from textenv.lm import load_model

    with pytest.raises(ValueError, match="loaded with attn_implementation='sdpa', not 'eager'"):
        TRPO("CausalLMPolicy", make_text_envs(4), policy_kwargs={"model": load_model(model_folder)})


def test_the_critic_is_all_that_the_optimiser_moves(on_cartpole):
    agent = on_cartpole(TRPO)
    assert isinstance(agent.env, gym.vector.VectorEnv)
    moved = {id(p) for group in agent.optimizer.param_groups for p in group["params"]}
    assert moved == {id(p) for p in agent.policy.critic_parameters()}
