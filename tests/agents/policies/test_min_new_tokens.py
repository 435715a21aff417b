"""Our policies never stop before ``min_new_tokens``, in acting and in learning alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from agents.evaluation import evaluate_text
from agents.experience.episodes import collect_episodes

LEAST = {"stop": [5], "min_new_tokens": 4}


def test_no_stop_before_its_time(make_text_envs, in_batches, policy_for, make_model):
    envs = in_batches(64, **LEAST)
    rollout = collect_episodes(envs, policy_for(envs, make_model()), seed=0)
    stops = (rollout.actions == 0) | (rollout.actions == 5)
    assert not stops[:, :3].any()
    assert stops[:, 3].any() and not stops[:, 3].all()
    free = in_batches(64, stop=[5])
    early = collect_episodes(free, policy_for(free, make_model()), seed=0).actions[:, :3]
    assert ((early == 0) | (early == 5)).any()  # what it would do without


@pytest.mark.parametrize("driving", ["batch", "step"])
def test_act_and_evaluate_agree(driving, make_agent, wrapped):
    envs = {} if driving == "batch" else {"envs": wrapped(8, **LEAST), "n_steps": 12}
    agent = make_agent("PPO", 8, env=LEAST, **envs)
    rollout = agent.collect()
    batch = rollout.batch()
    now = agent.policy.evaluate(batch, entropy=True)
    assert_close(now.log_probs[batch.mask], batch.old_log_probs[batch.mask], rtol=0, atol=1e-4)
    assert now.entropy is not None and now.entropy.isfinite().all()
    kl = now.distribution.kl(now.distribution.detach())
    assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-5)
    (now.log_probs.sum() + kl.sum()).backward()
    assert all(p.grad.isfinite().all() for p in agent.policy.parameters() if p.grad is not None)


def test_a_rollout_that_begins_inside_an_episode_knows_where_the_response_began(
    make_agent, wrapped
):
    agent = make_agent("PPO", envs=wrapped(8, **LEAST), n_steps=2)
    for _ in range(6):
        rollout = agent.collect()
        batch = rollout.batch()
        now = agent.policy.evaluate(batch)
        assert_close(now.log_probs[batch.mask], batch.old_log_probs[batch.mask], rtol=0, atol=1e-4)


def test_the_rule_is_that_of_the_models_own_logits(make_agent, next_logits, make_text_envs):
    agent = make_agent("PPO", 8, env=LEAST)
    observation, _ = make_text_envs(8, **LEAST).reset(seed=0)
    logits = next_logits(agent.policy, observation)
    logits[:, [0, 5]] = -torch.inf
    actions, log_probs, _, _ = agent.policy.act(observation)
    own = logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]
    assert_close(log_probs, own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_the_kl_is_that_of_a_plain_recomputation(array, make_agent, make_model):
    agent = make_agent("PPO", env=LEAST | {"reference": make_model(seed=1), "kl_coef": 0.1})
    result = evaluate_text(agent, n_episodes=64)
    np.testing.assert_allclose(result.kls, result.recomputed_kls, atol=1e-3)
    assert result.kls.mean() > 0.01


def test_step_and_batch_scoring_give_one_kl(make_text_envs, make_model, policy_for):
    """The same episodes, shaped token by token and all at once."""
    shaping = LEAST | {"reference": make_model(seed=1), "kl_coef": 0.5}
    sums = []
    for driving in ({"autoreset_mode": "same_step"}, {"scoring": "batch", "array": "torch"}):
        envs = make_text_envs(6, **({"autoreset_mode": "disabled"} | driving), **shaping)
        policy = policy_for(envs, make_model())
        envs.bind(policy)
        observation, _ = envs.reset(seed=0)
        state, totals, running = None, torch.zeros(6), torch.ones(6, dtype=torch.bool)
        while running.any():
            actions, _, _, state = policy.act(observation, state)
            given = actions if "scoring" in driving else actions.numpy()
            observation, rewards, terminated, _, _ = envs.step(given)
            totals += torch.as_tensor(rewards) * running  # of the first episode of each row
            running &= ~torch.as_tensor(terminated)
        sums.append(totals)
    assert_close(*sums, rtol=0, atol=1e-4)
    assert sums[0].isfinite().all() and sums[0].std() > 0.1
