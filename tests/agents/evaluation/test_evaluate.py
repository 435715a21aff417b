"""`agents.evaluate`: whatever acts is measured in the same episodes."""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from stateful import STATEFUL

import agents
from agents import BestOfN, Greedy, RandomTokens, Untouched, evaluate
from agents.evaluation import evaluate_text
from agents.evaluation.optimum import reference_scores
from agents.sb3 import SB3CausalLMPolicy, text_vec_env
from textenv.optimum import best_of_n, best_of_n_kl


@pytest.fixture
def env(make_text_envs, make_model):
    """Two tokens a response, of eight, so that all can be listed."""
    shaped = {"reference": make_model(seed=7), "kl_coef": 0.4}
    return make_text_envs(8, **shaped, max_new_tokens=2, stop=None, prompts=["a b"])


def every_response(env) -> tuple[np.ndarray, np.ndarray]:
    """log π_ref and the score of all responses of the fixture: two tokens, or the end at once."""
    model, log_probs, scores = env.unwrapped.shaping.reference, [], []
    for response in [(0,), *itertools.product(range(1, 8), range(8))]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[1, 2, *response]])).logits[0, 1:-1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])
        log_probs.append(chosen.sum().item())
        scores.append(float(np.mean(np.equal(response, 2))))
    return np.array(log_probs), np.array(scores)


# --- candidates that need no training -----------------------------------------------------------


def test_the_untouched_model_costs_no_kl(env):
    log_probs, scores = every_response(env)
    result = evaluate(Untouched(), env, 2000, seed=3)
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-6)
    expected, error = np.exp(log_probs) @ scores, result.scores.std() / 2000**0.5
    assert result.scores.mean() == pytest.approx(expected, abs=4 * error)
    np.testing.assert_allclose(result.kls, 0, atol=1e-5)
    np.testing.assert_allclose(result.returns, result.scores, atol=1e-5)
    assert result.kl_coef == 0.4 and result.sampled_tokens == result.lengths.sum()


def test_random_tokens_have_the_kl_of_the_uniform_distribution(env):
    log_probs, scores = every_response(env)
    uniform = np.array([1 / 8, *[1 / 64] * 56])
    result = evaluate(RandomTokens(), env, 4000, seed=3)
    expected = uniform @ scores
    assert result.scores.mean() == pytest.approx(expected, abs=4 * result.scores.std() / 4000**0.5)
    kl = uniform @ (np.log(uniform) - log_probs)
    assert result.kls.mean() == pytest.approx(kl, abs=4 * result.kls.std() / 4000**0.5)


def test_the_greedy_model_pays_for_what_it_never_says(env):
    result = evaluate(Greedy(), env, 5, seed=3)
    assert len(set(result.responses)) == 1
    first = env.unwrapped.shaping.reference
    with torch.no_grad():
        one = first(input_ids=torch.tensor([[1, 2]])).logits[0, -1].log_softmax(-1)
        two = first(input_ids=torch.tensor([[1, 2, one.argmax()]])).logits[0, -1].log_softmax(-1)
    wanted = one.max() + (0 if one.argmax() == 0 else two.max())
    np.testing.assert_allclose(result.kls, -wanted.item(), atol=1e-5)
    assert result.kls[0] > 0.5


@pytest.mark.parametrize("n", [1, 2, 5])
def test_best_of_n_is_the_highest_of_n_and_pays_for_all(n, env):
    log_probs, scores = every_response(env)
    result = evaluate(BestOfN(n), env, 1500, seed=3)
    expected = best_of_n(scores, n, log_probs)
    assert result.scores.mean() == pytest.approx(expected, abs=4 * result.scores.std() / 1500**0.5)
    np.testing.assert_allclose(result.kls, best_of_n_kl(n))
    assert result.returns.mean() == pytest.approx(result.scores.mean() - 0.4 * best_of_n_kl(n))
    assert 0.8 < result.sampled_tokens / (n * 1500) / result.lengths.mean() < 1.2
    assert all(
        score == pytest.approx(text.split().count("b") / length)
        for score, text, length in zip(result.scores, result.responses, result.lengths, strict=True)
    )


def test_best_of_n_agrees_with_the_curve_of_what_can_be_reached(make_agent, make_model):
    shaped = {"reference": make_model(seed=7), "kl_coef": 0.4}
    agent = make_agent("PPO", env=shaped)
    scores = reference_scores(agent, n_episodes=3000)
    result = evaluate(BestOfN(4), agent.env, 1500)
    curve = np.mean([best_of_n(of_prompt, 4) for of_prompt in scores])
    assert result.scores.mean() == pytest.approx(curve, abs=0.03)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "4"])
def test_n_is_a_number_of_texts(n):
    with pytest.raises(ValueError, match="must be a whole number, at least 1"):
        BestOfN(n)


@pytest.mark.parametrize("candidate", [Untouched(), Greedy(), BestOfN(2)])
def test_without_a_reference_there_is_nothing_untouched(candidate, make_text_envs):
    with pytest.raises(ValueError, match="make it with reference="):
        evaluate(candidate, make_text_envs(4))
    assert len(evaluate(RandomTokens(), make_text_envs(4), 6).kls) == 0


def test_all_candidates_get_the_same_prompts(make_agent, make_model):
    shaped = {"reference": make_model(seed=7), "kl_coef": 0.4}
    agent = make_agent("PPO", env=shaped)
    found = [
        evaluate(candidate, agent.env, 40, seed=5).prompts
        for candidate in (agent, agent.policy, Untouched(), BestOfN(2), RandomTokens())
    ]
    assert len(set(found[0])) > 1 and all(prompts == found[0] for prompts in found)


# --- agents, their folders, policies ------------------------------------------------------------


def test_an_agent_its_policy_and_its_folder_are_one_candidate(make_agent, model_folder, tmp_path):
    agent = make_agent("PPO", model={"seed": 3}, env={"reward": "length(3)", "prompts": ["a", "b"]})
    agent.save(tmp_path / "agent")
    state = agent.policy.generator.get_state()
    one = evaluate(agent, n_episodes=12, seed=4)
    same = evaluate_text(agent, n_episodes=12, seed=4)
    assert (agent.policy.generator.get_state() == state).all()
    of_policy = evaluate(agent.policy, agent.env, 12, 4)
    tokenizer = {"tokenizer": agent.env.tokenizer}
    of_folder = evaluate(tmp_path / "agent", n_episodes=12, seed=4, env_kwargs=tokenizer)
    assert one.responses == same.responses == of_policy.responses == of_folder.responses
    greedy = [evaluate(agent, n_episodes=12, seed=s, deterministic=True) for s in (4, 5)]
    assert dict(zip(greedy[0].prompts, greedy[0].responses, strict=True)) == dict(
        zip(greedy[1].prompts, greedy[1].responses, strict=True)
    )


def test_an_id_makes_the_environment(model_folder):
    task = {
        "tokenizer": model_folder, "reference": model_folder, "kl_coef": 0.5, "prompts": ["a b"],
        "reward": "length(3)", "max_new_tokens": 4,
    }  # fmt: skip
    result = evaluate(Untouched(), "TextGen-v0", 6, env_kwargs=task)
    assert len(result.scores) == 6 and result.kl_coef == 0.5 and result.lengths.max() <= 4


def test_an_agent_on_cartpole_is_judged_as_by_stable_baselines3(on_cartpole):
    agent = on_cartpole(agents.PPO, policy_kwargs={"net_arch": [4]})
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3)
    env.seed(7)
    wanted, _ = evaluate_policy(agent, env, 10, return_episode_rewards=True, warn=False)
    vector = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    by_ours = evaluate(agent, vector, 10, seed=7).returns
    by_sb3 = evaluate(agent, env, 10, seed=7).returns
    assert sorted(by_ours) == sorted(by_sb3) == sorted(wanted)
    assert len(evaluate(agent, "CartPole-v1", 5).returns) == 5
    assert len(evaluate(agent, gym.make("CartPole-v1"), 3).returns) == 3


# --- those of others ----------------------------------------------------------------------------


def test_a_model_of_sb3_with_our_policy_has_a_kl(model_folder, text_kwargs, make_model):
    """`evaluate_policy` pays it, on the same seeds, the same mean."""
    task = text_kwargs(reference=make_model(seed=7), kl_coef=0.3, stop=[5])
    env = text_vec_env(n_envs=24, **task)
    model = sb3.PPO(SB3CausalLMPolicy, env, n_steps=8, policy_kwargs={"model": model_folder})
    result = evaluate(model, n_episodes=24, seed=4)
    env.seed(4)
    torch.manual_seed(4)
    returns, _ = evaluate_policy(model, env, 24, deterministic=False, return_episode_rewards=True)
    assert result.returns.mean() == pytest.approx(np.mean(returns), abs=1e-5)
    assert sorted(result.returns) == pytest.approx(sorted(returns), abs=1e-5)
    np.testing.assert_allclose(result.recomputed_kls, result.kls, atol=1e-4)
    assert np.ptp(returns) > 0.1


def test_a_foreign_model_has_a_score_and_no_kl(text_kwargs, make_model):
    task = text_kwargs(reference=make_model(seed=7), kl_coef=0.3)
    env = text_vec_env(n_envs=4, **task)
    model = sb3.PPO("MultiInputPolicy", env, n_steps=8, policy_kwargs={"net_arch": [4]})
    before = torch.random.get_rng_state()
    one, again, other = (evaluate(model, n_episodes=20, seed=seed) for seed in (1, 1, 2))
    assert (torch.random.get_rng_state() == before).all()
    assert one.responses == again.responses != other.responses
    assert np.isfinite(one.scores).all() and np.isnan(one.kls).all() and np.isnan(one.returns).all()
    assert math.isnan(one.summary()["return"]["mean"])
    without = text_vec_env(n_envs=4, **text_kwargs())
    assert np.isfinite(evaluate(model, without, n_episodes=4).returns).all()


def test_a_function_of_the_observation_acts(make_text_envs):
    seen = []

    def always_b(observation):
        seen.append({key: type(value) for key, value in observation.items()})
        return np.full(len(observation["input_ids"]), 2)

    result = evaluate(always_b, make_text_envs(4), 10)
    assert (result.scores == 1).all() and (result.lengths == 5).all()
    assert set(seen[0].values()) == {np.ndarray}

    def alternating(observation):
        return (observation[:, 2] > 0).astype(int)

    assert evaluate(alternating, "CartPole-v1", 8, seed=1).returns.mean() > 30


def test_policies_and_functions_act_in_any_environment(on_cartpole):
    agent = on_cartpole(agents.PPO, policy_kwargs={"net_arch": [4]})
    one = evaluate(agent, "CartPole-v1", 4, seed=3).returns
    assert evaluate(agent.policy, "CartPole-v1", 4, seed=3).returns.tolist() == one.tolist()
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    found = evaluate(lambda rows: (rows[:, 2] > 0).astype(int), env, 4)
    assert found.returns.mean() > 20


def test_evaluating_in_its_own_environment_changes_nothing():
    """It says where it is, and is put back there."""
    few = {"n_envs": 2, "n_steps": 32, "seed": 0, "device": "cpu"}
    plain, watched = (agents.PPO("MlpPolicy", STATEFUL, **few) for _ in range(2))
    for agent in (plain, watched):
        agent.learn(64)
    evaluate(watched, n_episodes=6)
    one, other = plain.collect(), watched.collect()
    for column in ("observations", "actions", "rewards", "mask"):
        assert torch.equal(getattr(one, column), getattr(other, column))
    assert one.episodes == other.episodes


def test_other_episodes_begin_after_each_evaluation_where_the_environment_says_nothing(on_cartpole):
    agent, first = on_cartpole(agents.PPO).learn(64), []
    for _ in range(2):
        evaluate(agent, n_episodes=2, seed=3)
        first.append(agent.collect().observations[:, 0])
    assert not torch.equal(*first)
    assert not torch.equal(first[0], torch.as_tensor(agent.env.reset(seed=3)[0]))


def test_a_folder_leaves_the_environment_as_it_was(make_agent, model_folder, tmp_path):
    agent = make_agent("PPO", env={"reward": "length(3)"})
    agent.save(tmp_path / "agent")
    other = make_agent("PPO", num_envs=8, env={"reward": "length(3)"})
    tokenizer = {"tokenizer": agent.env.tokenizer}
    found = evaluate(tmp_path / "agent", other.env, 8, env_kwargs=tokenizer)
    assert len(found.scores) == 8
    other.learn(16)


def test_the_tokenizer_of_a_greedy_policy_is_checked(model_folder, make_text_envs, make_tokenizer):
    agent = agents.PPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=8, env_kwargs={"reward": "length(3)"},
        policy_kwargs={"model": model_folder}, device="cpu",
    )  # fmt: skip
    env = make_text_envs(4, tokenizer=make_tokenizer(8, backwards=True))
    for deterministic in (False, True):
        with pytest.raises(ValueError, match="tokenizer"):
            evaluate(agent, env, 4, deterministic=deterministic)


# --- bad input ----------------------------------------------------------------------------------


def test_what_cannot_be_evaluated_is_said_in_one_sentence(make_text_envs, tmp_path):
    for candidate, env, error, words in [
        (3, make_text_envs(2), TypeError, "A int cannot be evaluated"),
        (3, "CartPole-v1", TypeError, "A int cannot be evaluated"),
        (torch.nn.Linear(1, 1), "CartPole-v1", TypeError, "A Linear cannot be evaluated"),
        (sb3.PPO, "CartPole-v1", TypeError, "cannot be evaluated"),
        (Untouched(), "CartPole-v1", TypeError, "is a candidate for environments of text"),
        (Untouched(), None, ValueError, "has no environment of its own: pass one, env="),
        (len, None, ValueError, "has no environment of its own"),
        (tmp_path, None, FileNotFoundError, "There is no agent in"),
    ]:
        with pytest.raises(error, match=words):
            evaluate(candidate, env)
    with pytest.raises(ValueError, match="n_episodes=0 must be at least 1"):
        evaluate(lambda rows: rows, "CartPole-v1", 0)
    with pytest.raises(ValueError, match="n_episodes=0 must be at least 1"):
        evaluate(RandomTokens(), make_text_envs(2), 0)


def test_a_model_of_transformers_is_evaluated_as_it_is(make_text_envs, make_model):
    env = make_text_envs(4, reference=make_model(seed=1), kl_coef=0.1)
    found = evaluate(make_model(), env, n_episodes=8)
    assert len(found.returns) == 8 and abs(found.kls.mean()) > 0.01
    same = evaluate(make_model(seed=1), env, n_episodes=8)
    assert abs(same.kls.mean()) < 1e-4


def test_a_file_of_stable_baselines3_gets_a_sentence():
    with pytest.raises(ValueError, match=r"load it, as in PPO\.load\(path\)"):
        evaluate("model.zip", "CartPole-v1")
