"""What every algorithm owes its user: exact first steps, one seed one run, and learning."""

from __future__ import annotations

import random

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import configure
from torch.testing import assert_close

import agents.algorithms
from agents import PPO, REINFORCE, RLOO, TRPO, ActorCritic

NAMES = agents.algorithms.__all__
GROUPED = {"GRPO", "RLOO"}
EVERY = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def make_agent(make_text_envs, make_model):
    """``make_agent(name, num_envs, env={}, model={}, ...)``: an agent on tiny random text."""

    def make(name: str, num_envs: int = 16, env=(), model=(), **kwargs):
        env = {"stop": [5]} | dict(env)
        if name in GROUPED:
            env, kwargs = {"group_size": 4} | env, {"group_size": 4} | kwargs
        if name == "GRPO":
            env = {"reference": make_model(seed=1)} | env
        policy_kwargs = {"model": make_model(**dict(model))} | kwargs.pop("policy_kwargs", {})
        kind = getattr(agents.algorithms, name)
        kwargs = {"seed": 0, "learning_rate": 1e-2} | kwargs
        return kind(
            "CausalLMPolicy", make_text_envs(num_envs, **env), policy_kwargs=policy_kwargs, **kwargs
        )

    return make


def weights(agent) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in agent.policy.named_parameters()}


def largest_change(agent, before: dict[str, torch.Tensor]) -> float:
    return max((p - before[name]).abs().max().item() for name, p in weights(agent).items())


# The first step


@EVERY
def test_before_the_first_step_the_policy_is_the_one_that_acted(name, make_agent):
    agent = make_agent(name, policy_kwargs={"temperature": 0.7, "banned_tokens": (3,)})
    rollout = agent.collect()
    now = agent.policy.evaluate(rollout.observations, rollout.actions, rollout.mask)
    assert_close(now.log_probs.detach(), rollout.log_probs, rtol=0, atol=2e-5)
    metrics = agent.update(rollout)
    assert metrics.get("first_approx_kl", 0.0) < 1e-6
    assert all(map(np.isfinite, metrics.values()))


@EVERY
def test_an_update_moves_the_policy_towards_what_paid(name, make_agent):
    agent = make_agent(name, 64)
    rollout = agent.collect()
    before = weights(agent)
    agent.update(rollout)
    assert largest_change(agent, before) > 1e-4
    now = agent.policy.evaluate(rollout.observations, rollout.actions, rollout.mask)
    totals = rollout.rewards.sum(dim=1)
    gains = ((now.log_probs.detach() - rollout.log_probs) * rollout.mask).sum(dim=1)
    assert gains[totals > totals.mean()].mean() > gains[totals <= totals.mean()].mean()


@EVERY
def test_micro_batches_make_the_step_of_the_whole(name, make_agent):
    """Rows of different lengths, in parts of unequal size."""
    whole, parts = make_agent(name), make_agent(name, micro_batch_size=5)
    for agent in (whole, parts):
        agent.metrics = agent.update(agent.collect())
    before = weights(make_agent(name))
    assert largest_change(whole, before) > 1e-4
    for parameter, other in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        assert_close(parameter, other, rtol=1e-3, atol=2e-5)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", sorted(set(NAMES) - GROUPED))
def test_micro_batches_of_single_steps(name, corridor):
    """The same outside of text, where a row is a step."""
    runs = []
    for size in (None, 7):
        envs = gym.vector.SyncVectorEnv([corridor] * 3)
        kind = getattr(agents.algorithms, name)
        agent = kind("MlpPolicy", envs, n_steps=20, micro_batch_size=size, seed=0)
        agent.metrics = agent.update(agent.collect())
        runs.append(agent)
    for parameter, other in zip(*(run.policy.parameters() for run in runs), strict=True):
        assert_close(parameter, other, rtol=1e-3, atol=1e-6)
    assert runs[1].metrics == pytest.approx(runs[0].metrics, rel=1e-3, abs=1e-5)


# Chance


@EVERY
def test_one_seed_gives_one_run_bit_for_bit(name, make_agent):
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(runs))  # the world's generators make no difference
        np.random.seed(len(runs))  # noqa: NPY002
        agent = make_agent(name, seed=seed, batch_size=8).learn(250)
        runs.append(weights(agent))
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not all(torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


@pytest.mark.parametrize("seeds", [(3, 4), (None, None)])
def test_other_seeds_draw_other_actions_and_minibatches(seeds, make_agent):
    """With one prompt, so that the environment's own chance makes no difference."""
    one, other = (make_agent("PPO", seed=seed, env={"prompts": ["a"]}) for seed in seeds)
    assert not torch.equal(one.collect().actions[:, 0], other.collect().actions[:, 0])
    orders = [torch.randperm(100, generator=agent.generator) for agent in (one, other)]
    assert not torch.equal(*orders)


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("policy", ["CausalLMPolicy", "MlpPolicy", "bundled"])
def test_the_constructor_leaves_the_worlds_generators_alone(
    policy, seed, make_text_envs, make_model, corridor
):
    model = make_model()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    if policy == "MlpPolicy":
        PPO(policy, corridor(), seed=seed)
    elif policy == "bundled":
        PPO("CausalLMPolicy", "TextGen-v0", n_envs=2, seed=seed)
    else:
        PPO(policy, make_text_envs(2), seed=seed, policy_kwargs={"model": model})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


# Learning


@EVERY
def test_it_learns_to_say_a_wanted_word(name, make_agent):
    """Reward: the share of "b" in a response of four tokens. At random it is about 1 in 8."""
    agent = make_agent(
        name, 64, env={"stop": None, "max_new_tokens": 4, "min_new_tokens": 4},
        model={"spread": 0.1}, **({"target_kl": 0.05} if name == "TRPO" else {}),
    )  # fmt: skip
    before = np.mean(agent.collect().episodes["score"])
    agent.learn((20 if name == "TRPO" else 40) * 64 * 4)
    after = np.mean(agent.collect().episodes["score"])
    assert before < 0.3 and after > 0.8


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (REINFORCE, {}),
        (ActorCritic, {"vf_coef": 0.5}),
        (PPO, {"vf_coef": 0.5, "batch_size": 64}),
        (TRPO, {}),
    ],
)
def test_it_learns_to_walk_down_a_corridor(kind, kwargs, corridor):
    envs = gym.vector.SyncVectorEnv([corridor] * 8)
    agent = kind("MlpPolicy", envs, n_steps=32, learning_rate=1e-2, gamma=0.95, seed=0, **kwargs)
    agent.learn(256 * 30)
    observation, _ = envs.reset(seed=0)
    for _ in range(5):
        actions, _ = agent.predict(observation, deterministic=True)
        observation, rewards, terminated, _, _ = envs.step(actions)
    assert terminated.all() and (rewards > 0.5).all()


def test_it_learns_a_continuous_action():
    class Aim(gym.Env):
        """One step: the reward is −(a − 0.6)²."""

        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), -float((action[0] - 0.6) ** 2), True, False, {}

    envs = gym.vector.SyncVectorEnv([Aim] * 32, autoreset_mode="SameStep")
    agent = PPO(
        "MlpPolicy", envs, n_steps=8, learning_rate=1e-2, seed=0, vf_coef=0.5,
        policy_kwargs={"log_std_init": -1.0},
    ).learn(256 * 25)  # fmt: skip
    action, _ = agent.predict(np.zeros(1, np.float32), deterministic=True)
    assert action == pytest.approx(0.6, abs=0.1)


# learn: callbacks, schedules, logs


class Witness(BaseCallback):
    """Notes what it is called for, and ends the run after ``limit`` steps."""

    def __init__(self, limit: float = float("inf")):
        super().__init__()
        self.limit, self.calls = limit, []

    def _on_training_start(self):
        self.calls.append("start")

    def _on_rollout_start(self):
        self.calls.append("rollout")

    def _on_step(self):
        return self.n_calls < self.limit

    def _on_rollout_end(self):
        self.calls.append("rollout end")
        assert self.locals["rollout"].num_steps > 0

    def _on_training_end(self):
        self.calls.append("end")


def test_callbacks_of_stable_baselines3(make_agent):
    witness, other = Witness(), Witness()
    agent = make_agent("PPO", env={"min_new_tokens": 5}).learn(160, callback=[witness, other])
    assert witness.calls == ["start", *["rollout", "rollout end"] * 2, "end"] == other.calls
    assert witness.n_calls == 2 * 5
    assert witness.model is agent and witness.num_timesteps <= agent.num_timesteps == 160


@pytest.mark.parametrize("text", [True, False], ids=["text", "corridor"])
def test_a_callback_that_says_false_ends_the_run(text, make_agent, corridor):
    witness = Witness(limit=13)
    if text:
        agent = make_agent("PPO", env={"min_new_tokens": 5})
    else:
        agent = PPO("MlpPolicy", corridor(), n_steps=5, seed=0)
    agent.learn(10_000, callback=witness)
    assert witness.n_calls == 13
    assert witness.calls.count("rollout end") == 2 and witness.calls[-1] == "end"
    agent.learn(20)  # and the agent can go on


def test_a_function_as_callback(make_agent):
    calls = []

    def stop_at_seven(local_variables, global_variables) -> bool:
        calls.append(local_variables["self"])
        return len(calls) < 7

    agent = make_agent("REINFORCE").learn(10_000, callback=stop_at_seven)
    assert len(calls) == 7 and calls[0] is agent


def test_checkpoint_callback_writes_folders_that_load(make_agent, make_text_envs, tmp_path):
    callback = CheckpointCallback(save_freq=5, save_path=str(tmp_path), name_prefix="run")
    make_agent("PPO", env={"min_new_tokens": 5}).learn(160, callback=callback)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2
    assert PPO.load(folders[0], env=make_text_envs(16)).num_timesteps == 0


def test_a_learning_rate_schedule_falls_with_progress(make_agent):
    agent = make_agent("PPO", learning_rate=lambda remaining: 1e-3 * remaining)
    assert agent.optimizer.param_groups[0]["lr"] == 1e-3
    rates, descend = [], agent.descend

    def noting(batch):
        rates.append(agent.optimizer.param_groups[0]["lr"])
        return descend(batch)

    agent.descend, agent.n_epochs = noting, 1
    agent.learn(200)
    assert rates[0] == 1e-3 and all(np.diff(rates) < 0) and 0 < rates[-1] < 5e-4


def test_timesteps_are_tokens_that_count(make_agent):
    agent = make_agent("PPO")
    first = agent.collect()
    assert agent.num_timesteps == first.num_steps == sum(first.episodes["length"])
    agent.learn(100)
    assert 100 <= agent.num_timesteps < 100 + 16 * 5  # from 0, and the last rollout is finished
    before = agent.num_timesteps
    agent.learn(100, reset_num_timesteps=False)
    assert agent.num_timesteps >= before + 100


@EVERY
def test_the_csv_log_has_its_columns(name, make_agent, make_model, tmp_path):
    shaping = {"reference": make_model(seed=1), "kl_coef": 0.1}
    agent = make_agent(name, env=shaping)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(200)
    table = pd.read_csv(tmp_path / "progress.csv")
    wanted = {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/score_mean", "rollout/kl",
        "train/policy_objective" if name == "TRPO" else "train/policy_loss",
        "train/learning_rate", "time/fps", "time/total_timesteps",
    }  # fmt: skip
    assert wanted <= set(table.columns)
    assert table["time/total_timesteps"].iloc[-1] == agent.num_timesteps
    assert table["time/iterations"].tolist() == list(range(1, len(table) + 1))
    assert table.notna().all().all()


def test_every_log_interval_th_rollout_is_logged(make_agent, tmp_path):
    agent = make_agent("REINFORCE", env={"min_new_tokens": 5})
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(80 * 5, log_interval=2)
    assert pd.read_csv(tmp_path / "progress.csv")["time/iterations"].tolist() == [2, 4]


def test_tensorboard_and_the_table_on_stdout(make_agent, tmp_path, capsys):
    make_agent("PPO", verbose=1, tensorboard_log=str(tmp_path)).learn(50, tb_log_name="trial")
    assert "ep_rew_mean" in capsys.readouterr().out
    assert list((tmp_path / "trial_1").glob("events*"))


def test_the_progress_bar_shows_speed_score_and_length(make_agent, capsys):
    make_agent("PPO").learn(200, progress_bar=True)
    shown = capsys.readouterr().out
    assert "score" in shown and "steps/s" in shown and "100%" in shown


# Making the environment


def test_an_id_makes_the_native_environment_in_its_fast_mode():
    env_kwargs = {"max_new_tokens": 4, "reward": "length"}
    agent = REINFORCE("CausalLMPolicy", "TextGen-v0", n_envs=3, env_kwargs=env_kwargs)
    assert agent.env.num_envs == 3 and agent.scores_batches
    assert agent.env.array == "torch" and agent.env.max_new_tokens == 4
    assert agent.collect().mask.shape[1] <= 4


def test_an_id_of_ones_own_is_driven_the_same_way():
    gym.register(
        "OwnText-v0", entry_point="textenv:TextGenEnv",
        vector_entry_point="textenv:TextGenVectorEnv", kwargs={"reward": "length"},
    )  # fmt: skip
    try:
        agent = RLOO("CausalLMPolicy", "OwnText-v0", n_envs=4, group_size=2)
    finally:
        gym.registry.pop("OwnText-v0")
    assert agent.scores_batches and agent.env.group_size == 2


def test_an_unknown_policy_or_environment_is_an_error():
    with pytest.raises(AttributeError):
        PPO("CnnPolicy", "TextGen-v0", n_envs=2)
    with pytest.raises(gym.error.Error):
        PPO("MlpPolicy", "NoSuch-v0")


def test_ppo_clips_values_near_those_of_the_critic_that_acted():
    """Values that have moved beyond the range leave the loss of the critic as it was."""
    agent = agents.PPO(
        "MlpPolicy", "CartPole-v1", n_envs=2, n_steps=16, clip_range_vf=1e-9, seed=0, device="cpu"
    )
    rollout = agent.collect()
    batch = rollout.batch(advantages=rollout.rewards, returns=rollout.values + 10)
    with torch.no_grad():
        agent.policy.critic[-1].bias += 1  # towards the returns, far outside the range
    _, metrics = agent.loss(batch)
    assert metrics["value_loss"].item() == pytest.approx(100, rel=1e-4)
    agent.clip_range_vf = None
    assert agent.loss(batch)[1]["value_loss"].item() == pytest.approx(81, rel=1e-4)
