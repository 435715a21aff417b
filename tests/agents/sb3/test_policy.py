"""A causal language model as a policy of stable-baselines3."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.testing import assert_close

from agents import bind
from agents.evaluation import evaluate_returns
from agents.sb3 import LiveModel, SB3CausalLMPolicy, text_vec_env

# --- acting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic_layers", [0, 1])
def test_acting_from_the_cache_is_the_plain_forward(observe, critic_layers, make_ppo, next_logits):
    settings = {"temperature": 0.7, "banned_tokens": (3,), "critic_layers": critic_layers}
    agent = make_ppo(policy=settings)
    policy = agent.policy
    torch.nn.init.normal_(policy.lm.value_head.weight)
    for observation in observe(agent.env, 30):
        tensors, _ = policy.obs_to_tensor(observation)
        actions, values, log_probs = policy(tensors)
        logits = next_logits(policy.lm, observation) / 0.7
        logits[:, 3] = -torch.inf
        own = logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]
        assert_close(log_probs, own, rtol=0, atol=1e-4)
        assert values.shape == (16, 1)
        again = policy.evaluate_actions(tensors, actions)
        assert_close(again[0], values, rtol=0, atol=1e-4)
        assert_close(again[1], log_probs, rtol=0, atol=1e-4)
        distribution = policy.get_distribution(tensors)
        assert_close(distribution.log_prob(actions), log_probs, rtol=0, atol=1e-4)
        assert_close(distribution.entropy(), again[2], rtol=0, atol=1e-4)
        assert_close(policy.predict_values(tensors), values, rtol=0, atol=1e-4)


def test_rows_that_extend_what_was_seen_use_the_cache(make_ppo, text_kwargs):
    agent = make_ppo()
    fed: list[tuple[int, ...]] = []
    embeddings = agent.policy.lm.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, args, output: fed.append(tuple(args[0].shape)))
    env = text_vec_env(n_envs=3, **text_kwargs() | {"prompts": ["a b", "b a", "b a c a"]})
    observation = env.reset()
    for _ in range(4):  # no episode ends: the budget is 5
        actions, state = agent.predict(observation, deterministic=True)
        assert state is None
        observation, _, dones, _ = env.step(np.where(actions == 0, 1, actions))
    assert not dones.any() and fed[1:] == [(3, 1)] * 3 and fed[0][1] > 1
    agent.predict(env.reset())
    assert fed[-1][1] > 1  # new episodes are read as a whole
    one = {key: value[0] for key, value in observation.items()}
    assert agent.predict(one)[0].shape == ()


def test_new_weights_need_new_keys_and_values(observe, make_ppo, next_logits):
    agent = make_ppo()
    observation = observe(agent.env)[-1]

    def most_likely() -> torch.Tensor:
        return agent.policy(agent.policy.obs_to_tensor(observation)[0], deterministic=True)[2]

    before = most_likely()
    agent.learn(128)  # no further call: the cache is that of the old weights
    now = most_likely()
    own = next_logits(agent.policy.lm, observation).log_softmax(-1).amax(dim=1)
    assert_close(now, own, rtol=0, atol=1e-4)
    assert (now - before).abs().max() > 1e-3
    agent.policy.load_from_vector(agent.policy.parameters_to_vector() * 0.5)
    own = next_logits(agent.policy.lm, observation).log_softmax(-1).amax(dim=1)
    assert_close(most_likely(), own, rtol=0, atol=1e-4)


def test_one_seed_gives_one_run(make_ppo):
    vectors = [make_ppo().learn(256).policy.parameters_to_vector() for _ in range(2)]
    assert np.array_equal(*vectors)
    assert not np.array_equal(vectors[0], make_ppo(seed=1).learn(256).policy.parameters_to_vector())


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "policy"),
    [({}, {}), ({"min_new_tokens": 4}, {"temperature": 1.5, "banned_tokens": (2,)})],
    ids=["plain", "with temperature, bans and a least length"],
)
def test_the_first_ratio_is_one(env, policy, make_ppo, monkeypatch):
    agent = make_ppo(env, policy)
    ratios, evaluate = [], agent.policy.evaluate_actions

    def noting(observations, actions):
        values, log_probs, entropy = evaluate(observations, actions)
        old = agent.rollout_buffer.log_probs.reshape(-1)
        ratios.append((log_probs.detach().sort()[0] - torch.as_tensor(old).sort()[0]).exp())
        return values, log_probs, entropy

    monkeypatch.setattr(agent.policy, "evaluate_actions", noting)
    agent.learn(128)
    assert len(ratios) == 1 and len(ratios[0]) == 128
    assert_close(ratios[0], torch.ones(128), rtol=0, atol=1e-4)
    assert abs(agent.logger.name_to_value["train/approx_kl"]) < 1e-6
    assert agent.logger.name_to_value["train/clip_fraction"] == 0


def test_steps_of_one_episode_share_a_forward_pass(observe, make_ppo):
    agent = make_ppo(n_envs=2)
    steps = observe(agent.env, 4)
    stacked = {k: torch.as_tensor(np.concatenate([s[k] for s in steps])) for k in steps[0]}
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = {key: value[order].float() for key, value in stacked.items()}  # as SB3's buffer
    actions = torch.arange(10) % 8
    read = []
    embeddings = agent.policy.lm.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, args, output: read.append(args[0].shape[0]))
    values, log_probs, entropy = agent.policy.evaluate_actions(shuffled, actions)
    assert sum(read) < 10
    (log_probs.sum() + values.sum() + entropy.sum()).backward()
    together = [p.grad.clone() for p in agent.policy.parameters() if p.grad is not None]
    agent.policy.zero_grad()
    for i in range(10):
        one = {key: value[i : i + 1] for key, value in shuffled.items()}
        value, log_prob, spread = agent.policy.evaluate_actions(one, actions[i : i + 1])
        assert_close(log_prob, log_probs[i : i + 1], rtol=0, atol=1e-5)
        (log_prob.sum() + value.sum() + spread.sum()).backward()
    alone = [p.grad for p in agent.policy.parameters() if p.grad is not None]
    assert_close(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_return_with_kl_rises_on_the_default_task():
    """The settings of the README, for fewer tokens."""
    shaped = {"reference": "bundled", "kl_coef": 0.1}
    agent = PPO(
        SB3CausalLMPolicy, text_vec_env(n_envs=64, **shaped), seed=0, device="cpu", n_steps=24,
        batch_size=384, n_epochs=1, gamma=1.0, gae_lambda=0.8,
        learning_rate=lambda left: 1e-3 * left,
        policy_kwargs={"critic_layers": 2, "optimizer_kwargs": {"eps": 1e-3}},
    )  # fmt: skip
    judge = text_vec_env(n_envs=128, **shaped)

    def mean_return() -> float:
        judge.seed(1000)
        return float(evaluate_policy(agent, judge, n_eval_episodes=512, deterministic=False)[0])

    before = mean_return()
    agent.learn(30_000)
    assert before < 0.1 and mean_return() > before + 0.1  # the standard error is 0.015


@pytest.mark.parametrize("kind", [PPO, pytest.param(A2C, marks=pytest.mark.slow)])
def test_the_return_rises(kind, make_ppo, text_kwargs):
    settings = dict(n_epochs=4) if kind is PPO else dict(n_steps=8, use_rms_prop=False, gamma=1.0)
    agent = make_ppo(kind=kind, n_envs=32, learning_rate=1e-2, **settings)
    judge = text_vec_env(n_envs=32, **text_kwargs(stop=[5]))

    def mean_return() -> float:
        judge.seed(1)
        return float(evaluate_policy(agent, judge, n_eval_episodes=128, deterministic=False)[0])

    before = mean_return()
    agent.learn(6000)
    assert before < 0.3 and mean_return() > 0.8


def test_trpo_of_sb3_contrib_learns(make_ppo, text_kwargs):
    """It differentiates the KL between two distributions of the policy twice."""
    agent = make_ppo(kind=TRPO, n_steps=8, batch_size=64, gamma=1.0)
    before = agent.policy.parameters_to_vector()
    agent.learn(256)
    assert 0 < agent.logger.name_to_value["train/kl_divergence_loss"] < 0.02
    assert np.isfinite(agent.policy.parameters_to_vector()).all()
    assert not np.array_equal(before, agent.policy.parameters_to_vector())


# --- KL shaping ---------------------------------------------------------------------------------


class Sums(BaseCallback):
    """Adds up what the environment reports, to compare it with the returns of episodes."""

    def _on_training_start(self):
        self.kl, self.seen = np.zeros(self.training_env.num_envs), []

    def _on_step(self):
        for row, info in enumerate(self.locals["infos"]):
            self.kl[row] += info["kl"]
            if self.locals["dones"][row]:
                self.seen.append((info["episode"]["r"], info["score"] - 0.3 * self.kl[row]))
                self.kl[row] = 0
        return True


def test_kl_shaping_in_one_call(make_ppo, make_model):
    agent = make_ppo({"reference": make_model(seed=1), "kl_coef": 0.3})
    callback = Sums()
    agent.learn(256, callback)
    returns, expected = zip(*callback.seen, strict=True)
    assert len(returns) > 40 and np.ptp(returns) > 0.5
    assert returns == pytest.approx(expected, abs=1e-4)


def test_kl_shaping_after_loading_and_in_an_evaluation(make_ppo, make_model, tmp_path):
    shaping = {"reference": make_model(seed=1), "kl_coef": 0.3}
    agent = make_ppo(shaping)
    agent.learn(128)
    agent.save(tmp_path / "agent")
    other = make_ppo(shaping).env
    again = PPO.load(tmp_path / "agent", env=other)
    again.learn(128)
    assert other.unwrapped.shaping.policy is again.policy.lm
    mean, _ = evaluate_policy(agent, other, n_eval_episodes=16)  # another policy in its turn
    assert other.unwrapped.shaping.policy is agent.policy.lm and np.isfinite(mean)


def test_single_environments_are_bound_by_hand(make_ppo, make_model, text_kwargs):
    kwargs = text_kwargs(stop=[5], reference=make_model(seed=1), kl_coef=0.3)
    env = DummyVecEnv([lambda: gym.make("TextGen-v0", **kwargs)] * 4)
    agent = PPO(SB3CausalLMPolicy, env, n_steps=4, batch_size=16, n_epochs=1, seed=0,
                policy_kwargs={"model": LiveModel(make_model())})  # fmt: skip
    with pytest.raises(RuntimeError, match=r"unwrapped\.bind"):
        agent.learn(16)
    bind(env, agent.policy.lm)
    agent.learn(16)


# --- evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluate_policy_and_evaluate_returns_give_one_mean(
    deterministic, make_ppo, make_text_envs, text_kwargs
):
    agent = make_ppo()
    agent.learn(128)
    theirs = text_vec_env(n_envs=6, **text_kwargs(stop=[5]))
    theirs.seed(4)
    torch.manual_seed(0)
    returns, lengths = evaluate_policy(
        agent, theirs, n_eval_episodes=24, deterministic=deterministic, return_episode_rewards=True
    )
    ours = make_text_envs(6, stop=[5], autoreset_mode="same_step")
    torch.manual_seed(0)
    mine = evaluate_returns(agent, ours, 24, seed=4, deterministic=deterministic)
    assert np.mean(mine) == pytest.approx(np.mean(returns), abs=1e-6)
    assert sorted(mine) == pytest.approx(sorted(returns), abs=1e-6)
    assert np.ptp(mine) > 0 and len(set(lengths)) > 1


def test_an_algorithm_that_needs_values_of_actions_is_refused(model_folder):
    env = text_vec_env("TextGen-v0", 2, tokenizer=model_folder, prompts=["a"], reward="length")
    with pytest.raises(AttributeError, match="has no Q-values, which DQN learns: use an algorithm"):
        DQN(SB3CausalLMPolicy, env, policy_kwargs={"model": model_folder}, device="cpu")
