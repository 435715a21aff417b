"""Whole episodes of text, against a hand loop."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from torch.testing import assert_close

from agents.experience.episodes import collect_episodes
from textenv import ActionRecord
from textenv.kl.estimators import k1

CLOSE = dict(rtol=0, atol=1e-4)


def log_prob_of(policy, observation, action) -> torch.Tensor:
    """log π of an action after ``observation`` (one row), by a plain call of the model."""
    length = int(observation["attention_mask"].sum())
    ids = torch.as_tensor(observation["input_ids"])[..., :length].reshape(1, length)
    with torch.no_grad():
        return policy.model(input_ids=ids).logits[0, -1].log_softmax(-1)[action]


def test_whole_episodes_against_a_hand_loop(policy_for, in_batches, make_model, text_kwargs):
    shaping = dict(reference=make_model(seed=7), kl_coef=0.4, no_stop_penalty=0.25, stop=[5])
    envs = in_batches(8, **shaping)
    policy = policy_for(envs, make_model())
    envs.bind(policy)
    rollout = collect_episodes(envs, policy)
    assert rollout.sequential and rollout.whole_episodes
    assert rollout.num_steps == rollout.mask.sum()
    assert rollout.mask.sum(dim=1).unique().numel() > 1

    single = gym.make("TextGen-v0", **text_kwargs(**shaping))
    by_hand = policy_for(envs, policy.model)
    single.unwrapped.bind(by_hand)
    prompts = [tuple(prompt.ids.tolist()) for prompt in single.unwrapped.prompts]
    for row, length in enumerate(rollout.mask.sum(dim=1).tolist()):
        head = int(rollout.observations["prompt_lengths"][row])
        ids = rollout.observations["input_ids"][row]
        index = prompts.index(tuple(ids[:head].tolist()))
        observation, _ = single.reset(options={"prompt_index": index})
        values, total = [], 0.0
        for t in range(length):
            action = rollout.actions[row, t]
            log_prob = log_prob_of(by_hand, observation, action)
            by_hand.action_record = ActionRecord(action[None], log_prob[None])
            batch = {key: value[None] for key, value in observation.items()}
            values.append(by_hand.predict_values(batch)[0])
            observation, reward, ended, _, info = single.step(int(action))
            total += reward
            assert ended == rollout.episode_end[row, t] == (t == length - 1)
            assert rollout.rewards[row, t].item() == pytest.approx(reward, abs=1e-5)
            assert_close(rollout.log_probs[row, t], log_prob, **CLOSE)
            reference = rollout.reference_log_probs[row, t].item()
            assert reference == pytest.approx(info["ref_log_prob"], abs=1e-4)
        assert ids[: head + length].tolist() == observation["input_ids"][: head + length].tolist()
        assert_values(rollout, row, torch.stack(values))
        assert rollout.episodes["return"][row] == pytest.approx(total, abs=1e-5)
        assert rollout.episodes["length"][row] == length
        assert rollout.episodes["score"][row] == pytest.approx(info["score"])
        assert rollout.episodes["response"][row] == info["response"]
    kl = k1(rollout.log_probs, rollout.reference_log_probs) * rollout.mask
    assert rollout.episodes["kl"] == pytest.approx(kl.sum(dim=1).tolist(), abs=1e-4)
    assert_close(rollout.rewards.sum(dim=1), torch.tensor(rollout.episodes["return"]))


def assert_values(rollout, row: int, values: torch.Tensor) -> None:
    following = torch.cat([values[1:], torch.zeros(1)])
    assert_close(rollout.values[row, : len(values)], values, **CLOSE)
    assert_close(rollout.next_values[row, : len(values)], following, **CLOSE)


def test_nothing_is_recorded_off_the_mask(policy_for, in_batches, make_model):
    envs = in_batches(16, stop=[5])
    rollout = collect_episodes(envs, policy_for(envs, make_model()))
    assert not rollout.mask.all()
    for name in ("log_probs", "values", "next_values", "rewards", "episode_end"):
        assert (getattr(rollout, name)[~rollout.mask] == 0).all(), name
    assert (rollout.episode_end.sum(dim=1) == 1).all()


def test_a_rollout_outlives_the_next_one(make_agent):
    """The environment hands out views of its table and goes on writing into it."""
    agent = make_agent("PPO", 8)
    first = agent.collect()
    before = first.observations["input_ids"].clone()
    second = agent.collect()
    assert_close(first.observations["input_ids"], before)
    assert not torch.equal(second.observations["input_ids"], before)


def test_a_seed_begins_the_first_rollout_only(make_agent):
    one, other = (make_agent("PPO", 8, seed=4) for _ in range(2))
    first, again = (agent.collect().observations["prompt_lengths"] for agent in (one, other))
    assert_close(first, again)
    rest = [one.collect().observations["prompt_lengths"] for _ in range(4)]
    assert not all(torch.equal(first, lengths) for lengths in rest)
