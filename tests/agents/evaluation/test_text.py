"""Evaluations: exactly so many episodes, in an environment of their own."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from agents.evaluation import TextEvaluation, distinct_n, evaluate_text
from agents.evaluation.sampling import MAX_ROWS
from agents.experience import environments
from textenv import AdaptiveKL, TextGenEnv


@pytest.fixture
def shaping(make_model):
    return {"reference": make_model(seed=7), "kl_coef": 0.4}


def assert_same(one: TextEvaluation, other: TextEvaluation) -> None:
    assert one.responses == other.responses and one.prompts == other.prompts
    for column in ("scores", "paid", "kls", "recomputed_kls", "lengths"):
        np.testing.assert_allclose(getattr(one, column), getattr(other, column), atol=1e-5)


# What it measures


@pytest.mark.parametrize("n_episodes", [1, 5, MAX_ROWS, MAX_ROWS + 3])
def test_exactly_so_many_episodes_are_sampled(n_episodes, make_agent, shaping):
    result = evaluate_text(make_agent("PPO", env=shaping), n_episodes=n_episodes)
    for column in (
        result.scores, result.kls, result.recomputed_kls, result.lengths, result.prompts,
        result.responses,
    ):  # fmt: skip
        assert len(column) == n_episodes
    with pytest.raises(ValueError, match="n_episodes=0 must be at least 1"):
        evaluate_text(make_agent("PPO"), n_episodes=0)


def test_its_numbers_are_those_of_the_texts(make_agent, shaping, tmp_path):
    """Each is worked out again from prompt and response, by plain calls of the models."""
    agent = make_agent("PPO", env={**shaping, "stop": None}, policy_kwargs={"banned_tokens": (0,)})
    result = evaluate_text(agent, n_episodes=10)
    tokenizer = agent.env.tokenizer
    for i in range(10):
        prompt = tokenizer(result.prompts[i])["input_ids"]
        words = tokenizer(result.responses[i])["input_ids"]
        assert len(words) == result.lengths[i] == 5
        assert result.scores[i] == pytest.approx(words.count(2) / 5, abs=1e-6)
        ids = torch.tensor([prompt + words])
        chosen = ids[0, len(prompt) :, None]
        log_probs = []
        for model in (agent.policy.model, agent.env.shaping.reference):
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].detach()
            logits[:, 0] = -torch.inf
            log_probs.append(logits.log_softmax(-1).gather(1, chosen).sum().item())
        assert result.kls[i] == pytest.approx(log_probs[0] - log_probs[1], abs=1e-4)
        assert result.recomputed_kls[i] == pytest.approx(result.kls[i], abs=1e-4)
    assert np.abs(result.kls).max() > 0.1
    summary = result.summary()
    for name, values in (("score", result.scores), ("kl", result.kls), ("length", result.lengths)):
        assert summary[name] == {
            "mean": values.mean(),
            "standard_error": values.std(ddof=1) / len(values) ** 0.5,
            "count": len(values),
        }
    result.save(tmp_path / "episodes.jsonl")
    assert_same(TextEvaluation.load(tmp_path / "episodes.jsonl", summary), result)


def test_without_a_reference_there_is_no_kl(make_agent):
    result = evaluate_text(make_agent("PPO"), n_episodes=4)
    assert len(result.kls) == len(result.recomputed_kls) == 0


def test_one_seed_gives_one_evaluation(make_agent):
    agent = make_agent("PPO")
    one, again, other = (evaluate_text(agent, n_episodes=8, seed=seed) for seed in (3, 3, 4))
    assert_same(one, again)
    assert one.responses != other.responses


# In whichever environment


@pytest.fixture
def environment_of(make_text_envs, wrapped, in_batches, text_kwargs, shaping):
    """``environment_of(kind)``: the same task, in different kinds of environment."""
    single = {**text_kwargs(stop=[5]), **shaping}
    kinds = {
        "numpy": lambda: make_text_envs(6, stop=[5], **shaping),
        "torch": lambda: in_batches(6, stop=[5], **shaping),
        "wrapped": lambda: wrapped(6, stop=[5], **shaping),
        "grouped": lambda: make_text_envs(6, stop=[5], group_size=3, **shaping),
        "single": lambda: TextGenEnv(**single),
        "single, wrapped": lambda: gym.make("TextGen-v0", **single),
        "vector of single ones": lambda: SyncVectorEnv([lambda: TextGenEnv(**single)] * 2),
    }
    return lambda kind: kinds[kind]()


KINDS = [
    "numpy", "torch", "wrapped", "grouped", "single", "single, wrapped", "vector of single ones",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_environment_gives_the_same_episodes(kind, environment_of, make_agent, shaping):
    agent = make_agent("PPO", env=shaping)
    assert_same(
        evaluate_text(agent, environment_of(kind), n_episodes=9),
        evaluate_text(agent, n_episodes=9),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_given_environment_is_left_as_it_was(kind, environment_of, make_agent):
    """Its running episodes go on, and its later prompts are those it would have drawn."""
    agent = make_agent("PPO")
    texts = []
    for evaluates in (False, True):
        env = environment_of(kind)
        for text in environments.text_environments(env):
            text.bind(None)
            text.shaping.schedule.value = 0.0  # steps need no policy
        env.reset(seed=1)
        said = []
        vector = isinstance(env, gym.vector.VectorEnv)
        if not (vector and getattr(env.unwrapped, "scoring", "step") == "batch"):
            env.step(np.full(env.num_envs, 3) if vector else 3)
        if evaluates:
            evaluate_text(agent, env, n_episodes=3)
        for _ in range(3):
            observation, infos = env.reset()
            said.append(np.asarray(observation["input_ids"]).tolist())
            said.append(list(np.atleast_1d(infos["prompt"])))
        texts.append(said)
    assert texts[0] == texts[1]


def test_an_environment_without_text_is_refused(make_agent):
    with pytest.raises(ValueError, match=r"is no text environment: evaluate_returns measures"):
        evaluate_text(make_agent("PPO"), gym.make("CartPole-v1"))


@pytest.mark.parametrize("given", [True, False])
def test_learning_goes_on_after_an_evaluation_as_without_it(given, make_agent, make_model, weights):
    """Nor does it move an adaptive β, whatever KL it finds."""
    runs = []
    for evaluates in (False, True):
        schedule = AdaptiveKL(target=0.1, horizon=500, initial=0.2)
        env = {"reference": make_model(seed=7), "kl_coef": schedule}
        agent = make_agent("PPO", env=env, n_epochs=1)
        agent.update(agent.collect())
        beta = schedule.value
        if evaluates:
            evaluate_text(agent, agent.env if given else None, n_episodes=7)
        assert schedule.value == beta != 0.2
        rollout = agent.collect()
        agent.update(rollout)
        runs.append((rollout.observations["input_ids"], rollout.rewards, weights(agent)))
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


def test_distinct_n_by_hand():
    assert distinct_n(["a b a b"], 2) == 2 / 3  # ab, ba, ab
    assert distinct_n(["good good good good"], 2) == 1 / 3
    assert distinct_n(["one"], 2) == 0.0


def test_the_kl_of_a_real_model_is_recomputed_for_some_episodes(
    make_agent, shaping, monkeypatch, tmp_path
):
    monkeypatch.setattr("agents.training.presets.SMALL_MODEL", 10)
    monkeypatch.setattr("agents.evaluation.text.RECOMPUTED", 5)
    agent = make_agent("PPO", env=shaping)
    result = evaluate_text(agent, n_episodes=12)
    assert len(result.kls) == 12 and len(result.recomputed_kls) == 5
    np.testing.assert_allclose(result.recomputed_kls, result.kls[:5], atol=1e-4)
    result.save(tmp_path / "episodes.jsonl")
    assert_same(TextEvaluation.load(tmp_path / "episodes.jsonl", result.summary()), result)
