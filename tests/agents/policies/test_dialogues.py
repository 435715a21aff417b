"""Dialogues: acting, evaluating and the model's own forward agree where replies are in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import agents
from agents.evaluation.text import recomputed_kl
from agents.experience.episodes import collect_episodes

CLOSE = dict(rtol=0, atol=1e-4)


def answer(episode):
    """Replies of no, one or several tokens, or the end."""
    turn = episode.turns[-1]
    kind = (sum(turn.ids.tolist()) + len(episode.turns)) % 5
    return None if kind == 4 else " ".join("abcd"[:kind])


TALK = {
    "respond": answer, "max_turns": 3, "max_turn_tokens": 3, "max_new_tokens": 7,
    "max_reply_tokens": 4,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gpt_neox", "opt"])
def test_act_evaluate_and_transformers_agree(
    kind, policy_for, in_batches, make_model, assert_three_ways_agree
):
    envs = in_batches(24, stop=[1], **TALK)
    policy = policy_for(envs, make_model(kind), temperature=0.7, banned_tokens=(3,))
    rollout = assert_three_ways_agree(envs, policy, temperature=0.7, banned=(3,))
    own, ids = (rollout.observations[key] for key in ("own_tokens", "input_ids"))
    replied = (ids.ne(0).sum(1) - rollout.observations["prompt_lengths"]) > own.sum(1)
    assert replied.sum() > 5 and rollout.mask.sum(1).unique().numel() > 1  # ragged


@pytest.mark.parametrize("kwargs", [{"critic_layers": 1}, {"dtype": "bfloat16"}, {"lora": 2}])
def test_other_policies_agree_as_well(kwargs, policy_for, in_batches, make_model):
    envs = in_batches(12, stop=[1], **TALK)
    policy = policy_for(envs, make_model(), **kwargs)
    rollout = collect_episodes(envs, policy)
    now = policy.evaluate(rollout)
    allowed = 0.2 if "dtype" in kwargs else 1e-4
    assert_close(rollout.log_probs, now.log_probs.detach(), rtol=0, atol=allowed)
    assert_close(rollout.values, now.values.detach(), rtol=0, atol=10 * allowed)


def test_groups_read_their_prompt_once_and_agree(policy_for, in_batches, make_model):
    long = " ".join("abcdefg"[i % 7] for i in range(30))
    envs = in_batches(24, stop=[1], prompts=[long], group_size=24, **TALK)
    policy = policy_for(envs, make_model())
    rollout = collect_episodes(envs, policy)
    together = policy.evaluate(rollout).log_probs
    alone = torch.cat([policy.evaluate(rollout.batch().take([row])).log_probs for row in range(24)])
    assert_close(together, alone, **CLOSE)
    assert_close(together.detach(), rollout.log_probs, **CLOSE)


@pytest.mark.parametrize("rows", [1, 8])
def test_each_token_is_read_once(rows, policy_for, in_batches, make_model):
    model, read = make_model(), []
    envs = in_batches(rows, stop=[1], prompts=["a b c", "b", "d e"], **TALK)
    policy = policy_for(envs, model)
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    rollout = collect_episodes(envs, policy)
    # What was said last is not read. A pass of several rows repeats the end of a shorter part.
    columns = rollout.observations["own_tokens"].flip(1).argmax(1)
    lengths = rollout.observations["own_tokens"].shape[1] - 1 - columns
    tokens = sum(shape.numel() for shape in read)
    if rows == 1:
        assert tokens == int(lengths.sum())
    else:
        assert tokens < 1.5 * int(lengths.sum())
        assert not any(shape[1] > 5 for shape in read[1:])  # no prefix anew


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_steps_from_the_cache_are_those_of_the_model(
    mode, policy_for, make_text_envs, make_model, next_logits
):
    envs = make_text_envs(5, autoreset_mode=mode, **TALK)
    policy = policy_for(envs, make_model())
    observation, _ = envs.reset(seed=0)
    state, grown = None, 0
    for _ in range(25):
        actions, log_probs, _, state = policy.act(observation, state)
        own = next_logits(policy, observation).log_softmax(-1)
        assert_close(log_probs, own.gather(1, actions[:, None])[:, 0], **CLOSE)
        before = observation["attention_mask"].sum(1)
        observation, _, terminated, _, _ = envs.step(actions.numpy())
        grown += int((observation["attention_mask"].sum(1) - before.astype(int) > 1).sum())
        if mode == "disabled" and terminated.any():
            observation, _ = envs.reset(options={"reset_mask": terminated})
    assert grown > 5


def test_the_kl_of_acting_is_that_of_plain_passes(policy_for, in_batches, make_model):
    reference = make_model(seed=1)
    envs = in_batches(12, stop=[1], reference=reference, kl_coef=0.3, **TALK)
    policy = policy_for(envs, make_model())
    envs.bind(policy)
    rollout = collect_episodes(envs, policy)
    plainly = recomputed_kl(policy, reference, rollout)
    np.testing.assert_allclose(rollout.episodes["kl"], plainly, atol=1e-4)
    by_hand = (rollout.log_probs - rollout.reference_log_probs) * rollout.mask
    assert_close(by_hand.sum(1), torch.tensor(plainly, dtype=torch.float32), **CLOSE)


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [False, True], ids=["episodes", "steps"])
def test_every_algorithm_learns_from_them(
    name, steps, make_agent, make_text_envs, wrapped, fitting
):
    grouped = name in ("GRPO", "RLOO")
    if steps and grouped:
        pytest.skip("groups need whole episodes")
    kwargs = {"n_steps": 5} if steps else {}
    env = {"stop": [5], **TALK}
    envs = wrapped(8, **env) if steps else None
    agent = make_agent(name, 8, env=env, envs=envs, **fitting(name, n_epochs=2, **kwargs))
    before = [p.detach().clone() for p in agent.policy.parameters()]
    rollout = agent.collect()
    again = agent.policy.evaluate(rollout).log_probs.detach()
    assert_close(again, rollout.log_probs.masked_fill(~rollout.mask, 0), **CLOSE)
    agent.learn(200)
    changed = [
        not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True)
    ]
    assert sum(changed) > 5


def test_legal_tokens_are_kept_to_by_policy_and_reference(policy_for, in_batches, make_model):
    envs = in_batches(
        16, legal_tokens=["a", "b"], reference=make_model(seed=1), kl_coef=0.1, **TALK
    )
    policy = policy_for(envs, make_model())
    envs.bind(policy)
    rollout = collect_episodes(envs, policy)
    legal = {envs.tokenizer.get_vocab()[letter] for letter in "ab"}
    assert set(rollout.actions[rollout.mask].tolist()) == legal
    # Both are distributions over two tokens.
    for log_probs in (rollout.log_probs, rollout.reference_log_probs):
        assert (log_probs[rollout.mask] <= 0).all() and log_probs[rollout.mask].exp().mean() > 0.3
    same = policy_for(envs, make_model(seed=1))
    envs.bind(same)
    assert np.abs(collect_episodes(envs, same).episodes["kl"]).max() < 1e-4
    masks = envs.action_masks()
    assert masks.sum(1).tolist() == [2] * 16
    assert {envs.single_action_space.sample() for _ in range(40)} == legal


def test_an_evaluation_counts_turns(make_agent):
    agent = make_agent("PPO", 8, env={"stop": [5], **TALK})
    found = agents.evaluate(agent, n_episodes=16)
    assert len(found.responses) == 16 and any("\n" in text for text in found.responses)
