"""The language model as a policy: acting, evaluating and the model's own forward agree."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn
from torch.testing import assert_close

from agents import PPO, REINFORCE, CausalLMPolicy
from agents.rollout import collect_episodes
from textenv import TextGenVectorEnv

CLOSE = dict(rtol=0, atol=1e-4)


def own_forward(policy, rollout, temperature=1.0, banned=()):
    """Log-probs, entropies and values ``[B, T]`` out of plain calls of the model, row by row."""
    columns = [torch.zeros(rollout.mask.shape) for _ in range(3)]
    for row, length in enumerate(rollout.mask.sum(dim=1).tolist()):
        prompt = int(rollout.observations["prompt_lengths"][row])
        ids = rollout.observations["input_ids"][row, : prompt + length]
        assert_close(ids[prompt:], rollout.actions[row, :length])
        with torch.no_grad():
            output = policy.model(input_ids=ids[None], output_hidden_states=True)
        at = slice(prompt - 1, prompt + length - 1)
        logits = output.logits[0, at, : policy.sampling.vocabulary].float() / temperature
        logits[:, list(banned)] = -torch.inf
        distribution = torch.distributions.Categorical(logits=logits)
        hidden = output.hidden_states[-1][0, at]
        for column, values in zip(
            columns,
            (
                distribution.log_prob(ids[prompt:]),
                distribution.entropy(),
                policy.value_head(hidden)[:, 0].detach(),
            ),
            strict=True,
        ):
            column[row, :length] = values
    return columns


def assert_three_ways_agree(envs, policy, temperature=1.0, banned=()):
    rollout = collect_episodes(envs, policy)
    own_log_probs, own_entropy, own_values = own_forward(policy, rollout, temperature, banned)
    now = policy.evaluate(rollout.observations, rollout.actions, rollout.mask, entropy=True)
    assert_close(rollout.log_probs, own_log_probs, **CLOSE)
    assert_close(rollout.values, own_values, **CLOSE)
    assert_close(now.log_probs.detach(), own_log_probs, **CLOSE)
    assert_close(now.entropy.detach(), own_entropy, **CLOSE)
    assert_close(now.values.detach(), own_values, **CLOSE)
    return rollout


def batched(envs: TextGenVectorEnv) -> TextGenVectorEnv:
    envs.reconfigure("disabled", "batch", "torch")
    envs.reset(seed=0)
    return envs


# act = evaluate = transformers' own forward


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gpt_neox", "opt"])
def test_act_evaluate_and_transformers_agree(policy_for, kind, make_text_envs, make_model):
    envs = batched(make_text_envs(24, max_new_tokens=8, stop=[5]))
    policy = policy_for(envs, make_model(kind), temperature=0.7, banned_tokens=(3,))
    rollout = assert_three_ways_agree(envs, policy, temperature=0.7, banned=(3,))
    lengths = rollout.mask.sum(dim=1)
    assert lengths.unique().numel() > 3  # ragged
    assert rollout.observations["prompt_lengths"].unique().numel() > 1
    assert not (rollout.actions[rollout.mask] == 3).any()
    assert rollout.log_probs[rollout.mask].std() > 0.3  # a model that has opinions


def test_act_evaluate_and_transformers_agree_on_smollm2(policy_for, smollm2):
    model, tokenizer = smollm2
    envs = gym.make_vec(
        "TextGen-v0", num_envs=3, tokenizer=tokenizer, max_new_tokens=4, reward="length",
        prompts=["The sea", "Robots, said the old engineer, are", "Once"],
    )  # fmt: skip
    policy = policy_for(batched(envs), model, temperature=1.3)
    nn.init.normal_(policy.value_head.weight, std=0.01)
    assert_three_ways_agree(envs, policy, temperature=1.3)


def test_a_row_may_be_reset_while_the_others_go_on(policy_for, make_text_envs, make_model):
    """The cache of a policy driven step by step follows what its rows do, without being told."""
    envs = make_text_envs(5, autoreset_mode="same_step", max_new_tokens=7)
    policy = policy_for(envs, make_model())
    observation, _ = envs.reset(seed=0)
    state, ends = None, 0
    for _ in range(25):
        actions, log_probs, values, state = policy.act(observation, state)
        _, fresh, fresh_values, _ = policy.act(observation, None, deterministic=True)
        for row, length in enumerate(observation["attention_mask"].sum(axis=1)):
            ids = torch.from_numpy(observation["input_ids"][row, :length])[None]
            with torch.no_grad():
                logits = policy.model(input_ids=ids).logits[0, -1]
            assert_close(log_probs[row], logits.log_softmax(-1)[actions[row]], **CLOSE)
            assert_close(fresh[row], logits.log_softmax(-1).max(), **CLOSE)
        assert_close(values, fresh_values, **CLOSE)
        assert_close(policy.predict_values(observation), values, **CLOSE)
        observation, _, terminated, _, _ = envs.step(actions.numpy())
        ends += terminated.sum()
    assert ends > 10


# Choosing


def first_observation(envs, rows: int) -> dict[str, np.ndarray]:
    observation, _ = envs.reset(seed=0)
    return {key: np.repeat(value[:1], rows, axis=0) for key, value in observation.items()}


def test_actions_are_drawn_with_the_probabilities_of_the_policy(
    policy_for, make_text_envs, make_model
):
    policy = policy_for(make_text_envs(1), make_model(), temperature=1.5, banned_tokens=(4,))
    actions, log_probs, _, _ = policy.act(first_observation(make_text_envs(1), 20_000))
    probabilities = policy.last_logits[0].softmax(-1)
    assert_close(log_probs, probabilities.log()[actions])
    counts = np.bincount(actions.numpy(), minlength=8)
    assert counts[4] == 0 and probabilities[4] == 0
    kept = np.arange(8) != 4
    expected = probabilities[kept].double().numpy()
    test = scipy.stats.chisquare(counts[kept], expected / expected.sum() * len(actions))
    assert test.pvalue > 0.01
    uniform = scipy.stats.chisquare(counts[kept])
    assert uniform.pvalue < 1e-6  # the test can tell


def test_deterministic_takes_the_likeliest_token(policy_for, make_text_envs, make_model):
    envs = make_text_envs(6)
    policy = policy_for(envs, make_model(), banned_tokens=(2,))
    observation, _ = envs.reset(seed=0)
    actions, log_probs, _, _ = policy.act(observation, deterministic=True)
    for row, length in enumerate(observation["attention_mask"].sum(axis=1)):
        ids = torch.from_numpy(observation["input_ids"][row, :length])[None]
        logits = policy.model(input_ids=ids).logits[0, -1].detach()
        logits[2] = -torch.inf
        assert actions[row] == logits.argmax()
        assert_close(log_probs[row], logits.log_softmax(-1).max(), **CLOSE)


def test_a_policy_leaves_what_kl_shaping_reads(policy_for, make_text_envs, make_model):
    envs = make_text_envs(4)
    policy = policy_for(envs, make_model())
    actions, log_probs, _, _ = policy.act(envs.reset(seed=0)[0])
    assert_close(policy.last_log_probs, log_probs)
    assert_close(policy.last_logits.log_softmax(-1)[torch.arange(4), actions], log_probs)


# predict


@pytest.fixture
def agent(make_text_envs, make_model) -> PPO:
    return PPO(
        "CausalLMPolicy", make_text_envs(6), seed=0, learning_rate=1e-2,
        policy_kwargs={"model": make_model()},
    )  # fmt: skip


def test_predict_for_one_observation_and_for_many(agent, make_text_envs):
    observation, _ = make_text_envs(6).reset(seed=0)
    many, state = agent.predict(observation, deterministic=True)
    assert many.shape == (6,) and many.dtype == np.int64 and state is not None
    for row in range(6):
        one, _ = agent.predict({k: v[row] for k, v in observation.items()}, deterministic=True)
        assert one.shape == () and one == many[row]


@pytest.mark.parametrize("keep", [True, False], ids=["with the state", "without it"])
def test_predict_with_and_without_its_state_writes_the_same(agent, text_kwargs, keep):
    env = gym.make("TextGen-v0", **text_kwargs())
    texts = []
    for keeps in (keep, False):
        observation, _ = env.reset(seed=4)
        state, ended = None, False
        while not ended:
            action, state = agent.predict(observation, state if keeps else None, deterministic=True)
            observation, _, ended, _, info = env.step(action)
        texts.append(info["response"])
    assert texts[0] == texts[1] and texts[0]


def test_evaluate_policy_of_stable_baselines3_equals_a_hand_loop(agent, text_kwargs):
    env = gym.make(
        "TextGen-v0",
        **text_kwargs(reward=lambda episodes: [e.prompt_ids.sum() + 0.5 for e in episodes]),
    )
    env.reset(seed=1)
    rewards, lengths = evaluate_policy(
        agent, env, n_eval_episodes=5, deterministic=True, return_episode_rewards=True, warn=False
    )
    env.reset(seed=1)
    for reward, length in zip(rewards, lengths, strict=True):
        observation, _ = env.reset()
        ended, total, steps = False, 0.0, 0
        while not ended:
            action, _ = agent.predict(observation, deterministic=True)
            observation, step_reward, ended, _, _ = env.step(action)
            total, steps = total + step_reward, steps + 1
        assert reward == pytest.approx(total, abs=1e-6) and length == steps
    assert len(set(rewards)) > 1


def test_no_state_means_the_weights_of_now(agent, make_text_envs):
    observation, _ = make_text_envs(6).reset(seed=0)
    agent.policy.act(observation)
    before = agent.policy.last_logits.clone()
    agent.update(agent.collect())
    agent.policy.act(observation)
    after = agent.policy.last_logits
    assert (before - after).abs().max() > 1e-3
    lengths = torch.from_numpy(observation["attention_mask"].sum(axis=1))
    output = agent.policy.model(input_ids=torch.from_numpy(observation["input_ids"]))
    own = output.logits[torch.arange(6), lengths - 1].detach()
    assert_close(after.log_softmax(-1), own.log_softmax(-1), **CLOSE)


# Reduced precision


def in_bfloat16(envs, model) -> PPO:
    return PPO(
        "CausalLMPolicy", envs, seed=0, learning_rate=1e-3, n_epochs=1, n_steps=9,
        policy_kwargs={"model": model, "dtype": "bfloat16"},
    )  # fmt: skip


@pytest.mark.parametrize("stepwise", [False, True], ids=["batch", "step"])
def test_in_bfloat16_the_old_log_probs_are_those_of_evaluate(stepwise, make_text_envs, make_model):
    envs = make_text_envs(16)
    if stepwise:  # a wrapper keeps the agent from switching it
        envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    agent = in_bfloat16(envs, make_model())
    rollout = agent.collect()
    now = agent.policy.evaluate(rollout.observations, rollout.actions, rollout.mask)
    at = rollout.mask
    assert_close(rollout.log_probs[at], now.log_probs[at].detach(), rtol=0, atol=0)
    assert now.log_probs.dtype == torch.float32
    assert agent.update(rollout)["first_approx_kl"] == pytest.approx(0, abs=1e-7)


def test_in_bfloat16_a_rounded_copy_acts_and_float32_learns(make_text_envs, make_model):
    agent = in_bfloat16(make_text_envs(16), make_model())
    collected = collect_episodes(agent.env, agent.policy)
    now = agent.policy.evaluate(collected.observations, collected.actions, collected.mask)
    gap = (collected.log_probs - now.log_probs.detach()).abs().max()
    assert 1e-5 < gap < 0.3
    agent.update(collected)
    assert all(p.dtype == torch.float32 for p in agent.policy.parameters())


# Adapters


def test_adapters_of_peft_act_evaluate_and_learn_alone(make_text_envs, make_model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(make_model(), config)
    agent = REINFORCE(
        "CausalLMPolicy", make_text_envs(12), seed=0, learning_rate=1e-2,
        policy_kwargs={"model": model},
    )  # fmt: skip
    assert_three_ways_agree(agent.env, agent.policy)  # dropout is off
    before = {name: p.detach().clone() for name, p in agent.policy.named_parameters()}
    agent.update(agent.collect())
    changed = {
        name for name, p in agent.policy.named_parameters() if not torch.equal(p, before[name])
    }
    assert changed
    assert all("lora_" in name for name in changed)  # REINFORCE has no critic
    assert {name for name in before if "lora_" in name} == changed
    assert_three_ways_agree(agent.env, agent.policy)


# Bad input


def test_a_vocabulary_larger_than_the_models_is_refused(policy_for, make_text_envs, make_model):
    with pytest.raises(ValueError, match="has 8 tokens, but the model only 5"):
        policy_for(make_text_envs(2, vocabulary=8), make_model(vocabulary=5))


def test_a_model_may_have_more_columns_than_the_tokenizer(policy_for, make_text_envs, make_model):
    envs = batched(make_text_envs(6, vocabulary=5))
    policy = policy_for(envs, make_model(vocabulary=8))
    rollout = assert_three_ways_agree(envs, policy)
    assert rollout.actions.max() < 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"banned_tokens": (8,)}, "banned_tokens contains 8"),
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


def test_other_observations_are_refused(make_model):
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match="MlpPolicy"):
        CausalLMPolicy(env.observation_space, env.action_space, model=make_model())
