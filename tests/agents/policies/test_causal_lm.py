"""The language model as a policy: acting, evaluating and the model's own forward agree."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from agents import CausalLMPolicy

CLOSE = dict(rtol=0, atol=1e-4)


# act = evaluate = transformers' own forward


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gpt_neox", "opt"])
def test_act_evaluate_and_transformers_agree(
    policy_for, kind, in_batches, make_model, assert_three_ways_agree
):
    envs = in_batches(24, max_new_tokens=8, stop=[1])
    policy = policy_for(envs, make_model(kind), temperature=0.7, banned_tokens=(3,))
    rollout = assert_three_ways_agree(envs, policy, temperature=0.7, banned=(3,))
    lengths = rollout.mask.sum(dim=1)
    assert lengths.unique().numel() > 3  # ragged
    assert rollout.observations["prompt_lengths"].unique().numel() > 1
    assert not (rollout.actions[rollout.mask] == 3).any()
    assert rollout.log_probs[rollout.mask].std() > 0.3  # a model that has opinions


def test_a_row_may_be_reset_while_the_others_go_on(
    policy_for, make_text_envs, make_model, next_logits
):
    """The cache of a policy driven step by step follows what its rows do, without being told."""
    envs = make_text_envs(5, autoreset_mode="same_step", max_new_tokens=7)
    policy = policy_for(envs, make_model())
    observation, _ = envs.reset(seed=0)
    state, ends = None, 0
    for _ in range(25):
        actions, log_probs, values, state = policy.act(observation, state)
        _, fresh, fresh_values, _ = policy.act(observation, None, deterministic=True)
        own = next_logits(policy, observation).log_softmax(-1)
        assert_close(log_probs, own.gather(1, actions[:, None])[:, 0], **CLOSE)
        assert_close(fresh, own.amax(dim=1), **CLOSE)
        assert_close(values, fresh_values, **CLOSE)
        assert_close(policy.predict_values(observation), values, **CLOSE)
        observation, _, terminated, _, _ = envs.step(actions.numpy())
        ends += terminated.sum()
    assert ends > 10


def test_the_critic_alone_leaves_the_body_without_gradient(policy_for, in_batches, make_model):
    envs = in_batches(6)
    policy = policy_for(envs, make_model())
    observation, _ = envs.reset(seed=0)
    lengths = observation["attention_mask"].sum(dim=1)
    observations = {"input_ids": observation["input_ids"], "prompt_lengths": lengths}
    mask = torch.ones(6, 1, dtype=torch.bool)
    batch = SimpleNamespace(observations=observations, mask=mask)
    policy.evaluate_values(batch).sum().backward()
    assert all(p.grad is None for p in policy.actor_parameters())
    assert all(p.grad.abs().sum() > 0 for p in policy.critic_parameters())


# Choosing


def first_observation(envs, rows: int) -> dict[str, np.ndarray]:
    observation, _ = envs.reset(seed=0)
    return {key: np.repeat(value[:1], rows, axis=0) for key, value in observation.items()}


def test_actions_are_drawn_with_the_probabilities_of_the_policy(
    policy_for, make_text_envs, make_model, next_logits
):
    policy = policy_for(make_text_envs(1), make_model(), temperature=1.5, banned_tokens=(4,))
    observation = first_observation(make_text_envs(1), 20_000)
    actions, log_probs, _, _ = policy.act(observation)
    one = {key: value[:1] for key, value in observation.items()}
    logits = next_logits(policy, one)[0] / 1.5
    logits[4] = -torch.inf
    probabilities = logits.softmax(-1)
    assert_close(log_probs, probabilities.log()[actions], **CLOSE)
    counts = np.bincount(actions.numpy(), minlength=8)
    assert counts[4] == 0 and probabilities[4] == 0
    kept = np.arange(8) != 4
    expected = probabilities[kept].double().numpy()
    test = scipy.stats.chisquare(counts[kept], expected / expected.sum() * len(actions))
    assert test.pvalue > 0.01
    uniform = scipy.stats.chisquare(counts[kept])
    assert uniform.pvalue < 1e-6  # the test can tell


def test_deterministic_takes_the_likeliest_token(
    policy_for, make_text_envs, make_model, next_logits
):
    envs = make_text_envs(6)
    policy = policy_for(envs, make_model(), banned_tokens=(5,))
    observation, _ = envs.reset(seed=0)
    actions, log_probs, _, _ = policy.act(observation, deterministic=True)
    logits = next_logits(policy, observation)
    assert (logits.argmax(dim=1) == 5).any()  # so that the ban matters
    logits[:, 5] = -torch.inf
    assert actions.tolist() == logits.argmax(dim=1).tolist()
    assert_close(log_probs, logits.log_softmax(-1).amax(dim=1), **CLOSE)


def test_a_policy_leaves_a_new_record_at_each_act(policy_for, make_text_envs, make_model):
    envs = make_text_envs(4)
    policy = policy_for(envs, make_model())
    assert policy.action_record is None
    observation, _ = envs.reset(seed=0)
    actions, log_probs, _, _ = policy.act(observation)
    record = policy.action_record
    assert_close(record.log_probs, log_probs)
    assert_close(record.actions, actions)
    actions.zero_()  # what the caller does to its actions does not change the record
    assert record.actions.any()
    policy.act(observation)
    assert policy.action_record is not record


# Bad input


def test_a_vocabulary_larger_than_the_models_is_refused(policy_for, make_text_envs, make_model):
    with pytest.raises(ValueError, match="has 8 tokens, but the model only 5"):
        policy_for(make_text_envs(2, vocabulary=8), make_model(vocabulary=5))


def test_a_model_may_have_more_columns_than_the_tokenizer(
    policy_for, in_batches, make_model, assert_three_ways_agree
):
    envs = in_batches(6, vocabulary=5)
    policy = policy_for(envs, make_model(vocabulary=8))
    rollout = assert_three_ways_agree(envs, policy)
    assert rollout.actions.max() < 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"banned_tokens": (8,)}, "banned_tokens=.8. must be ids"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"dtype": "int8"}, "dtype='int8' is unknown"),
    ],
)
def test_wrong_arguments_are_named(policy_for, kwargs, message, make_text_envs, make_model):
    with pytest.raises(ValueError, match=message):
        policy_for(make_text_envs(2), make_model(), **kwargs)


def test_an_episode_longer_than_the_context_is_refused(policy_for, make_text_envs, make_model):
    with pytest.raises(ValueError, match="context"):
        policy_for(make_text_envs(2, max_new_tokens=61), make_model())


def test_weights_that_learn_must_be_float32(policy_for, make_text_envs, make_model):
    model = make_model().to(torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"weights that learn are torch.bfloat16.*dtype=torch.floa"
    ):
        policy_for(make_text_envs(2), model)


def test_a_live_model_keeps_the_attention_it_was_loaded_with(
    policy_for, make_text_envs, make_model
):
    with pytest.raises(ValueError, match="loaded with attn_implementation='eager', not 'sdpa'"):
        policy_for(make_text_envs(2), make_model(), attn_implementation="sdpa")


def test_other_observations_are_refused(make_model):
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="use 'MlpPolicy' here"):
        CausalLMPolicy(env.observation_space, env.action_space, model=make_model())
