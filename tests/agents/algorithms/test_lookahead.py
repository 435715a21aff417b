"""Lookahead: what its critic says of other tokens, and where it can be used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from agents import Lookahead


@pytest.fixture
def agent(make_agent):
    agent = make_agent("Lookahead", 16, batch_size=None, n_epochs=1)
    torch.nn.init.normal_(agent.policy.value_head.weight)
    return agent


def test_what_follows_the_token_that_was_taken_is_the_next_state(agent):
    choices = agent.with_choices(rollout := agent.collect())
    after = agent.policy.values_after(choices)
    assert after.shape == (*rollout.mask.shape, 1 + agent.candidates)
    values = agent.policy.evaluate_values(rollout).detach()
    follows = rollout.mask[:, 1:]
    assert follows.any()
    assert_close(after[:, :-1, 0][follows], values[:, 1:][follows], rtol=0, atol=1e-4)


def test_the_finished_text_is_one_more_state_whose_value_is_the_score(agent, monkeypatch):
    given = {}
    monkeypatch.setattr(agent, "optimize", lambda rollout, *_, **columns: given.update(columns))
    rollout = agent.collect()
    agent.update(rollout)
    steps = rollout.mask.sum(dim=1)
    rows = torch.arange(len(steps))
    assert given["returns"][rows, steps].tolist() == pytest.approx(rollout.episodes["score"])
    assert (given["advantages"][rows, steps] == 0).all()
    texts = rollout.with_last_states()
    assert texts.mask.sum(dim=1).tolist() == (steps + 1).tolist()
    ends = rollout.observations["prompt_lengths"] + steps - 1
    taken = rollout.actions[rows, steps - 1]
    assert texts.observations["input_ids"][rows, ends].tolist() == taken.tolist()


def test_the_first_ratio_is_one(agent):
    metrics = agent.update(agent.collect())
    assert -1e-8 < metrics["first_approx_kl"] < 1e-8
    assert all(map(np.isfinite, metrics.values()))


def test_micro_batches_make_the_step_of_the_whole(make_agent, weights):
    found = []
    for size in (None, 5):
        agent = make_agent("Lookahead", 16, batch_size=None, n_epochs=1, micro_batch_size=size)
        agent.update(agent.collect())
        found.append(weights(agent))
    for name, weight in found[0].items():
        assert_close(found[1][name], weight, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_it_learns_to_say_a_wanted_word(make_agent):
    agent = make_agent(
        "Lookahead", 64, env={"stop": None, "max_new_tokens": 4, "min_new_tokens": 4},
        model={"spread": 0.1},
    )  # fmt: skip
    before = np.mean(agent.collect().episodes["score"])
    agent.learn(20 * 64 * 4)
    assert before < 0.3 and np.mean(agent.collect().episodes["score"]) > 0.8


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [("CartPole-v1", {}), ("GuessNumber-v0", {"env_kwargs": {"reference": "bundled"}})],
)
def test_where_the_next_state_is_unknown_it_is_refused(env, kwargs):
    policy = "MlpPolicy" if env == "CartPole-v1" else "CausalLMPolicy"
    with pytest.raises(ValueError, match="knows the next state only where a token is appended"):
        Lookahead(policy, env, **kwargs)
