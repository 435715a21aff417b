"""The numbers of each token: they are those of the policy, and add up to those of the episode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.evaluation.traces import BLUES, ORANGES, advantages, shades, trace_episodes


@pytest.fixture
def agent(make_agent, make_model):
    def make(name: str, **changes):
        env = {"reference": make_model(seed=1), "kl_coef": 0.1}
        agent = make_agent(name, env=env, **changes)
        agent.learn(100)
        return agent

    return make


def test_numbers_add_up_to_those_of_the_episode(name, agent):
    own = agent(name)
    for episode in trace_episodes(own, 3, seed=1):
        steps = len(episode.pieces)
        assert len(episode.probabilities) == len(episode.kls) == len(episode.advantages) == steps
        assert ((0 < episode.probabilities) & (episode.probabilities <= 1)).all()
        paid = episode.score - 0.1 * episode.kls.sum()
        assert episode.episode_return == pytest.approx(paid, abs=1e-5)
        has_critic = name in ("PPO", "TRPO", "ActorCritic")
        assert (episode.values is not None) == has_critic
        if name in ("GRPO", "RLOO"):  # one number for the whole episode
            assert np.ptp(episode.advantages) == 0


def test_advantages_are_those_that_are_learned_from(agent):
    """With λ = 1 and γ = 1 they are what is still to come, minus the value."""
    own = agent("PPO", gae_lambda=1.0, gamma=1.0)
    for episode in trace_episodes(own, 3, seed=1):
        rewards = -0.1 * episode.kls
        rewards[-1] += episode.score
        to_go = rewards[::-1].cumsum()[::-1]
        np.testing.assert_allclose(episode.advantages, to_go - episode.values, atol=1e-5)


def test_the_baseline_is_that_of_the_agent(agent):
    own = agent("REINFORCE")
    rollout = own.collect()
    without = advantages(own, rollout) + own.baseline
    own.baseline = None
    torch.testing.assert_close(without[rollout.mask], advantages(own, rollout)[rollout.mask])


def test_a_seed_gives_the_same_episodes_and_leaves_the_agent_as_it_was(agent):
    own = agent("PPO")
    state = own.policy.generator.get_state()
    first, again, other = (trace_episodes(own, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(own.policy.generator.get_state(), state)
    texts = [[episode.response for episode in one] for one in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_deterministic_episodes_have_the_likeliest_tokens(agent):
    own = agent("PPO")
    texts = {trace_episodes(own, 1, seed, ["a b"], True)[0].response for seed in range(3)}
    assert len(texts) == 1
    (episode,) = trace_episodes(own, 1, 0, ["a b"], True)
    assert episode.prompt == "a b"
    assert (episode.probabilities < 1).any() and np.abs(episode.values).max() > 0


def test_shades_say_sign_and_size():
    assert shades([2.0, -2.0, 0.0, 0.01, 0.2]) == [BLUES[-1], ORANGES[-1], None, None, BLUES[0]]
    assert shades(np.zeros(2)) == [None, None] and shades([]) == []


def test_replies_stand_after_the_tokens_that_they_answer(make_agent, make_model):
    talk = {"respond": lambda episode: " b c" if len(episode.turns) == 1 else None,
            "max_turns": 3, "max_turn_tokens": 2, "max_new_tokens": 6, "max_reply_tokens": 4,
            "min_new_tokens": 4}  # fmt: skip
    agent = make_agent("PPO", env={"reference": make_model(seed=1), **talk})
    for episode in trace_episodes(agent, 3, seed=1):
        assert len(episode.replies) == len(episode.pieces) == len(episode.kls) == 4
        assert [reply.strip() for reply in episode.replies] == ["", "b c", "", ""]
        assert "ended by the environment" in episode.summary[-1]
