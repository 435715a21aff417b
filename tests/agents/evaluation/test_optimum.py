"""Scores of the untouched reference, prompt by prompt, and what they say can be reached."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from agents.evaluation import evaluate_text
from agents.evaluation.optimum import Attainable, planned_optimum, reference_scores
from agents.evaluation.sampling import sampler
from textenv.optimum import optimum


@pytest.fixture
def shaping(make_model):
    return {"reference": make_model(seed=7), "kl_coef": 0.4}


def prompt_or_b(episodes) -> list[float]:
    """10 for each token of the prompt, and the share of "b" in the response."""
    return [10 * len(e.prompt_ids) + float(np.mean(e.response_ids == 2)) for e in episodes]


def test_each_prompt_has_its_own_scores_in_equal_numbers(make_agent, shaping):
    agent = make_agent("PPO", env={**shaping, "reward": prompt_or_b})
    scores = reference_scores(agent, n_episodes=100)
    assert [len(of_prompt) for of_prompt in scores] == [33, 33, 33]
    assert [set(of_prompt // 10) for of_prompt in scores] == [{2.0}, {1.0}, {4.0}]


@pytest.mark.parametrize("policy", [{}, {"temperature": 0.5, "banned_tokens": (1,)}])
def test_the_scores_are_those_of_the_reference_under_the_policys_sampling(
    policy, make_agent, shaping
):
    """Against the expectation by listing all responses of two tokens."""
    env = {**shaping, "max_new_tokens": 2, "stop": None, "prompts": ["a b"], "no_stop_penalty": 0.5}
    agent = make_agent("PPO", env=env, policy_kwargs=policy)
    reference, sampling = agent.env.shaping.reference, agent.policy.sampling
    expected = 0.0
    for response in itertools.product(range(8), repeat=2):
        ids = torch.tensor([[1, 2, *response]])
        with torch.no_grad():
            logits = sampling.apply(reference(input_ids=ids).logits[0, 1:3])
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        said = response[:1] if response[0] == 0 else response
        if len(said) < len(response) and response[1] != 0:
            continue  # what follows the end is never drawn
        probability = chosen[: len(said)].sum().exp().item()
        expected += probability * (np.mean(np.equal(said, 2)) - 0.5 * (said[-1] != 0))
    (scores,) = reference_scores(agent, n_episodes=4000)
    assert scores.mean() == pytest.approx(expected, abs=4 * scores.std() / 4000**0.5)


def test_of_many_prompts_some_are_sampled_often_enough(make_agent, shaping):
    env = {**shaping, "prompts": [" ".join("a" * n) for n in range(1, 41)], "reward": prompt_or_b}
    agent = make_agent("PPO", env=env)
    scores = reference_scores(agent, n_episodes=100, seed=1)
    assert [len(of_prompt) for of_prompt in scores] == [33, 33, 33]
    means = {round(of_prompt.mean() // 10) for of_prompt in scores}
    others = {round(s.mean() // 10) for s in reference_scores(agent, n_episodes=100, seed=2)}
    assert len(means) == 3 and means != others


def test_one_seed_gives_the_same_scores_and_changes_nothing(make_agent, shaping):
    agent = make_agent("PPO", env=shaping)
    before = agent.policy.generator.get_state()
    one, again, other = (reference_scores(agent, n_episodes=96, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert torch.equal(agent.policy.generator.get_state(), before)
    assert agent.env.shaping.policy is agent.policy


def test_without_a_reference_there_is_nothing_to_sample(make_agent, shaping):
    with pytest.raises(ValueError, match="has no reference"):
        reference_scores(make_agent("PPO"))
    with pytest.raises(ValueError, match="n_episodes=0 must be at least 1"):
        reference_scores(make_agent("PPO", env=shaping), n_episodes=0)


def test_what_is_within_reach(tmp_path):
    rng = np.random.default_rng(0)
    reach = Attainable([rng.standard_normal(50), rng.standard_normal(50)], 0.5)
    assert reach.optimum == optimum(reach.scores, 0.5)
    points = reach.points()
    assert list(points) == ["best of 4", "best of 16", "optimum"]
    assert reach.value(points["optimum"]) == pytest.approx(reach.optimum.value)
    four = points["best of 4"]
    assert reach.value(four) == four.score - 0.5 * (np.log(4) - 3 / 4)
    assert list(Attainable([np.zeros(5)], 0.5).points()) == ["best of 4", "optimum"]
    reach.save(tmp_path / "scores.json")
    again = Attainable.load(tmp_path / "scores.json")
    assert again.optimum == reach.optimum and again.kl_coef == 0.5


def test_the_return_of_an_evaluation_is_score_minus_penalty_minus_kl(make_agent, shaping):
    agent = make_agent("PPO", env={**shaping, "no_stop_penalty": 0.3, "stop": None})
    result = evaluate_text(agent, n_episodes=40)
    penalised = result.lengths == 5  # most of these never stopped
    assert penalised.any() and not penalised.all()
    np.testing.assert_allclose(result.paid[~penalised], result.scores[~penalised])
    assert np.isclose(result.paid, result.scores - 0.3)[penalised].any()
    np.testing.assert_allclose(result.returns, result.paid - 0.4 * result.kls)
    assert result.kl_coef == 0.4 and result.summary()["return"]["mean"] == result.returns.mean()
    other = evaluate_text(agent, n_episodes=40, kl_coef=2.0)
    np.testing.assert_allclose(other.returns, result.paid - 2.0 * result.kls)
    assert evaluate_text(make_agent("PPO"), n_episodes=4).kl_coef == 0


def test_equal_scores_leave_nothing_to_learn():
    flat = Attainable([np.full(8, 0.1), np.zeros(8)], 0.5)
    assert flat.is_flat and "All 8 samples of each prompt have the same score" in flat.note
    assert not Attainable([np.zeros(8), np.arange(8.0)], 1e12).is_flat  # only β hides what differs
    assert not Attainable([np.zeros(1)], 0.5).is_flat  # a single one says nothing


@pytest.mark.parametrize(("secrets", "has_a_plan"), [("0123456789", True), ("5", False)])
def test_a_plan_is_one_for_what_a_game_hides_by_itself(secrets, has_a_plan):
    prompts = [{"prompt": "Ada:", "secret": secret} for secret in secrets]
    arguments = {"reference": "bundled", "kl_coef": 0.02, "prompts": prompts}
    game = sampler("bundled", "GuessNumber-v0", arguments, "cpu")
    assert (planned_optimum(game, 0.02) is not None) == has_a_plan
