"""A language model that is driven step by step: rows are cut into episodes."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn
from torch.testing import assert_close

from agents import PPO
from agents.experience.episodes import EpisodeCollector
from agents.experience.rollout import Rollout
from agents.experience.steps import StepCollector

CLOSE = dict(rtol=0, atol=1e-4)


def agent_for(env, model, kind=PPO, **kwargs):
    agent = kind(
        "CausalLMPolicy", env, seed=0, policy_kwargs={"model": model, "temperature": 0.8}, **kwargs
    )
    nn.init.normal_(agent.policy.value_head.weight, generator=torch.Generator().manual_seed(1))
    return agent


def assert_evaluates_to_what_acted(agent, rollout: Rollout) -> None:
    now = agent.policy.evaluate(rollout)
    where = rollout.mask
    assert_close(now.log_probs[where].detach(), rollout.log_probs[where], **CLOSE)
    assert_close(now.values[where].detach(), rollout.values[where], **CLOSE)


def test_a_single_environment_of_gym_make(text_kwargs, make_model):
    agent = agent_for(gym.make("TextGen-v0", **text_kwargs(stop=[5])), make_model(), n_steps=17)
    for _ in range(3):  # the rollouts begin and end in the midst of episodes
        rollout = agent.collect()
        assert rollout.sequential and rollout.num_steps == 17
        assert not rollout.whole_episodes
        assert_evaluates_to_what_acted(agent, rollout)
    assert agent.num_timesteps == 51
    assert len(rollout.episodes["score"]) == len(rollout.episodes["length"]) > 0


def test_a_wrapped_vector_environment_is_driven_as_it_is(mode, wrapped, make_model):
    envs = wrapped(5, autoreset_mode=mode, stop=[5])
    agent = agent_for(envs, make_model(), n_steps=13)
    assert agent.env is envs and isinstance(agent.collector, StepCollector)
    for _ in range(2):
        rollout = agent.collect()
        assert_evaluates_to_what_acted(agent, rollout)
        if mode != AutoresetMode.NEXT_STEP:
            assert rollout.num_steps == 5 * 13
    # Rows are whole episodes, or the parts of them that fell into the rollout.
    assert (rollout.mask.long().diff(dim=1) <= 0).all()
    steps = torch.arange(rollout.mask.shape[1])
    ends = torch.where(rollout.episode_end, steps, -1).amax(dim=1)
    lengths = rollout.mask.sum(dim=1)
    assert ((ends == lengths - 1) | (ends == -1)).all()
    assert (ends >= 0).sum() == len(rollout.episodes["return"])
    assert rollout.counts == (rollout.num_steps, len(rollout.mask))


def test_step_by_step_equals_whole_episodes(mode, make_text_envs, wrapped, make_model):
    """The first episode of each row is the same, whichever way it is driven."""
    shaping = dict(reference=make_model(seed=7), kl_coef=0.4, max_new_tokens=4, min_new_tokens=4)
    whole = agent_for(make_text_envs(6, **shaping), make_model())
    stepwise = agent_for(wrapped(6, autoreset_mode=mode, **shaping), make_model(), n_steps=4)
    assert isinstance(whole.collector, EpisodeCollector)
    assert isinstance(stepwise.collector, StepCollector)
    one, other = whole.collect(), stepwise.collect()
    width = other.observations["input_ids"].shape[1]
    # The order of the rows is that in which their episodes ended: all at once, so unchanged.
    for key, rows in one.observations.items():
        kept = rows if rows.ndim == 1 else rows[:, :width]
        assert_close(kept, other.observations[key])
    for name in ("actions", "mask", "episode_end"):
        assert_close(getattr(one, name), getattr(other, name))
    for name in ("log_probs", "values", "next_values", "rewards", "reference_log_probs"):
        assert_close(getattr(one, name), getattr(other, name), **CLOSE)
    assert one.reference_log_probs.abs().min() > 0
    assert one.episodes.keys() == other.episodes.keys()
    for name in ("return", "score", "kl"):
        assert one.episodes[name] == pytest.approx(other.episodes[name], abs=1e-4)
    assert one.episodes["response"] == other.episodes["response"]


def test_text_cut_short_bootstraps_from_its_last_observation(text_kwargs, make_model):
    env = gym.wrappers.TimeLimit(gym.make("TextGen-v0", **text_kwargs(min_new_tokens=5)), 3)
    agent = agent_for(env, make_model(), n_steps=6)
    rollout = agent.collect()
    assert rollout.mask.shape == (2, 3) and rollout.episode_end[:, -1].all()
    ids = rollout.observations["input_ids"]
    lengths = rollout.observations["prompt_lengths"] + 3
    attention = torch.arange(ids.shape[1]) < lengths[:, None]
    final = [
        agent.policy.predict_values({"input_ids": i[None], "attention_mask": a[None]})
        for i, a in zip(ids, attention, strict=True)
    ]
    assert_close(rollout.next_values[:, -1], torch.cat(final), **CLOSE)
    assert (rollout.next_values[:, -1] != 0).all()
