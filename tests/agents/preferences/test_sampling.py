"""Texts of several agents on the same prompts, and pairs of them."""

from __future__ import annotations

import pytest
import torch

from agents import REINFORCE
from agents.evaluation.sampling import sample
from agents.preferences.pairs import sample_pairs


@pytest.fixture(scope="module")
def agents():
    """Two agents of the bundled model with different temperatures and numbers of rows."""
    return [
        REINFORCE(
            "CausalLMPolicy", "TextGen-v0", n_envs=rows, seed=0,
            env_kwargs={"reward": "length(9)", "max_new_tokens": 6},
            policy_kwargs={"temperature": temperature},
        )
        for rows, temperature in ((4, 1.0), (16, 0.5))
    ]  # fmt: skip


def test_the_prompts_depend_only_on_the_seed(agents):
    one, other = (sample(agent, 20, seed=3, draw=number) for number, agent in enumerate(agents))
    assert one.prompts == other.prompts and len(one.prompts) == 20 and len(set(one.prompts)) > 5
    assert one.responses != other.responses
    assert sample(agents[0], 20, seed=3) == one
    assert sample(agents[0], 20, seed=3, draw=1).responses != one.responses
    assert sample(agents[0], 20, seed=4).prompts != one.prompts


def test_sampling_leaves_the_agent_as_it_was(agents):
    before = agents[0].policy.generator.get_state()
    steps, prompts = agents[0].num_timesteps, agents[0].env.unwrapped.prompts
    sample(agents[0], 9, seed=0, reward="sentiment", prompts=["Well,"])
    assert torch.equal(agents[0].policy.generator.get_state(), before)
    assert agents[0].num_timesteps == steps and agents[0].env.unwrapped.prompts is prompts


def test_another_judge_and_other_prompts(agents):
    samples = sample(agents[0], 5, seed=0, reward=lambda p, r: len(p), prompts=["ab", "ab"])
    assert samples.scores == [2.0] * 5 and set(samples.prompts) == {"ab"}


def test_pairs_differ_and_stand_in_random_order(agents):
    pairs = sample_pairs(*agents, 60, seed=0, names=("one", "other"))
    assert len(pairs) == 60 and all(len(set(pair.responses)) == 2 for pair in pairs)
    first = sum(pair.sources == ("one", "other") for pair in pairs)
    assert 15 < first < 45 and all(set(pair.sources) == {"one", "other"} for pair in pairs)
    assert sample_pairs(*agents, 60, seed=0, names=("one", "other")) == pairs


def test_agents_that_always_agree_cannot_be_compared():
    agent = REINFORCE(
        "CausalLMPolicy", "TextGen-v0", n_envs=4, env_kwargs={"max_new_tokens": 2},
        policy_kwargs={"banned_tokens": [token for token in range(1536) if token != 5]},
    )  # fmt: skip
    with pytest.raises(ValueError, match="Only 0 of 3 pairs have two different responses"):
        sample_pairs(agent, agent, 3, seed=0)


def test_pairs_of_agents_with_other_rewards_are_scored_by_that_of_the_first():
    one, other = (
        REINFORCE("CausalLMPolicy", "TextGen-v0", n_envs=4, env_kwargs={"reward": reward})
        for reward in (lambda episodes: [1.0] * len(episodes), "length")
    )
    assert {pair.scores for pair in sample_pairs(one, other, 6, seed=0)} == {(1.0, 1.0)}
    by_length = sample_pairs(one, other, 6, seed=0, reward="length")
    assert {pair.scores for pair in by_length} != {(1.0, 1.0)}
