"""Experience is recorded as it happened: against hand loops, in every autoreset mode."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.testing import assert_close

from agents import PPO, MlpPolicy
from agents.rollout import Batch, Rollout, StepCollector, collect_episodes
from textenv.kl import k1

MODES = list(AutoresetMode)
CLOSE = dict(rtol=0, atol=1e-4)


# Whole episodes of text


def test_whole_episodes_against_a_hand_loop(policy_for, make_text_envs, make_model, text_kwargs):
    shaping = dict(reference=make_model(seed=7), kl_coef=0.4, no_stop_penalty=0.25, stop=[5])
    envs = make_text_envs(8, scoring="batch", autoreset_mode="disabled", array="torch", **shaping)
    policy = policy_for(envs, make_model())
    envs.bind(policy)
    envs.reset(seed=0)
    rollout = collect_episodes(envs, policy)
    assert rollout.sequential and rollout.num_steps == rollout.mask.sum()
    assert rollout.mask.sum(dim=1).unique().numel() > 1

    single = gym.make("TextGen-v0", **text_kwargs(**shaping))
    by_hand = policy_for(envs, policy.model)
    single.unwrapped.bind(by_hand)
    prompts = [tuple(prompt.ids.tolist()) for prompt in single.unwrapped.prompts]
    for row, length in enumerate(rollout.mask.sum(dim=1).tolist()):
        head = int(rollout.observations["prompt_lengths"][row])
        ids = rollout.observations["input_ids"][row]
        index = prompts.index(tuple(ids[:head].tolist()))
        observation, _ = single.reset(options={"prompt_index": index})
        values, total = [], 0.0
        for t in range(length):
            action = rollout.actions[row, t]
            batch = {key: value[None] for key, value in observation.items()}
            by_hand.act(batch)
            log_prob = by_hand.last_logits.log_softmax(-1)[0, action]
            by_hand.last_log_probs = log_prob[None]
            values.append(by_hand.predict_values(batch)[0])
            observation, reward, ended, _, info = single.step(int(action))
            total += reward
            assert ended == rollout.ended[row, t] == (t == length - 1)
            assert rollout.rewards[row, t].item() == pytest.approx(reward, abs=1e-5)
            assert_close(rollout.log_probs[row, t], log_prob, **CLOSE)
            reference = rollout.reference_log_probs[row, t].item()
            assert reference == pytest.approx(info["ref_log_prob"], abs=1e-4)
        assert ids[: head + length].tolist() == observation["input_ids"][: head + length].tolist()
        values = torch.stack(values)
        following = torch.cat([values[1:], torch.zeros(1)])
        assert_close(rollout.values[row, :length], values, **CLOSE)
        assert_close(rollout.next_values[row, :length], following, **CLOSE)
        assert rollout.episodes["return"][row] == pytest.approx(total, abs=1e-5)
        assert rollout.episodes["length"][row] == length
        assert rollout.episodes["score"][row] == pytest.approx(info["score"])
        assert rollout.episodes["response"][row] == info["response"]
    kl = k1(rollout.log_probs, rollout.reference_log_probs) * rollout.mask
    assert rollout.episodes["kl"] == pytest.approx(kl.sum(dim=1).tolist(), abs=1e-4)
    assert_close(rollout.rewards.sum(dim=1), torch.tensor(rollout.episodes["return"]))


def test_nothing_is_recorded_off_the_mask(policy_for, make_text_envs, make_model):
    envs = make_text_envs(16, scoring="batch", autoreset_mode="disabled", array="torch", stop=[5])
    rollout = collect_episodes(envs, policy_for(envs, make_model()))
    assert not rollout.mask.all()
    for name in ("log_probs", "values", "next_values", "rewards", "ended"):
        assert (getattr(rollout, name)[~rollout.mask] == 0).all(), name
    assert (rollout.ended.sum(dim=1) == 1).all()


def test_a_rollout_outlives_the_next_one(make_text_envs, make_model):
    """The environment hands out views of its table and goes on writing into it."""
    agent = PPO("CausalLMPolicy", make_text_envs(8), seed=0, policy_kwargs={"model": make_model()})
    first = agent.collect()
    before = first.observations["input_ids"].clone()
    second = agent.collect()
    assert_close(first.observations["input_ids"], before)
    assert not torch.equal(second.observations["input_ids"], before)


# Single steps, in the three autoreset modes


class Count(gym.Env):
    """Counts up from its seed's start; terminates after ``length`` steps, or never."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, length: int | None, base: float):
        self.length, self.base, self.episode = length, base, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.observation(), {}

    def step(self, action):
        self.t += 1
        reward = self.base + self.episode + 0.1 * self.t + 0.01 * int(action)
        return self.observation(), reward, self.t == self.length, False, {}

    def observation(self) -> np.ndarray:
        return np.array([self.base + self.episode, self.t], np.float32)


def counting_envs(mode: AutoresetMode) -> SyncVectorEnv:
    """Row 0 terminates after 3 steps, row 1 is cut short after 4, row 2 goes on for 50."""
    return SyncVectorEnv(
        [
            lambda: Count(3, 10.0),
            lambda: gym.wrappers.TimeLimit(Count(None, 20.0), 4),
            lambda: Count(50, 30.0),
        ],
        autoreset_mode=mode,
    )


def transitions(rollouts: list[Rollout], row: int, policy: MlpPolicy) -> list[tuple]:
    """What counts of one row, without the actions' randomness."""
    found = []
    for rollout in rollouts:
        for t in rollout.mask[row].nonzero()[:, 0]:
            observation = rollout.observations[row, t]
            noise = 0.01 * rollout.actions[row, t]
            found.append(
                (
                    *observation.tolist(),
                    round((rollout.rewards[row, t] - noise).item(), 4),
                    rollout.ended[row, t].item(),
                    round(rollout.values[row, t].item(), 4),
                    round(rollout.next_values[row, t].item(), 4),
                )
            )
    return found


def collected(mode: AutoresetMode, n_steps: int, rollouts: int):
    envs = counting_envs(mode)
    policy = MlpPolicy(envs.single_observation_space, envs.single_action_space, seed=0)
    policy.seed(1)
    collector = StepCollector(envs, seed=0)
    return [collector.collect(policy, n_steps) for _ in range(rollouts)], policy


def value(policy: MlpPolicy, *observation: float) -> float:
    return policy.predict_values(np.array([observation], np.float32)).item()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", [0, 1, 2])
def test_every_autoreset_mode_records_the_transitions_as_they_happened(mode, row):
    rollouts, policy = collected(mode, n_steps=7, rollouts=2)
    length = (3, 4, 50)[row]
    base = 10.0 * (row + 1)
    found = transitions(rollouts, row, policy)
    spent = 0 if mode != AutoresetMode.NEXT_STEP else 14 // (length + 1)
    assert len(found) == 14 - spent  # all steps count but those spent on resetting
    for i, transition in enumerate(found):
        episode, t = divmod(i, length)
        ended = t == length - 1
        following = value(policy, base + episode, t + 1)  # of the final observation, if it ends
        if ended and row == 0:
            following = 0.0
        assert transition == pytest.approx(
            (
                base + episode, t, base + episode + 0.1 * (t + 1), ended,
                value(policy, base + episode, t), following,
            ),
            abs=2e-4,
        )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_the_episodes_of_every_mode(mode):
    rollouts, _ = collected(mode, n_steps=20, rollouts=1)
    lengths = rollouts[0].episodes["length"]
    each = [20 // 3, 20 // 4] if mode != AutoresetMode.NEXT_STEP else [20 // 4, 20 // 5]
    assert sorted(lengths) == [3] * each[0] + [4] * each[1]
    assert len(rollouts[0].episodes["return"]) == len(lengths)
    by_hand = rollouts[0].rewards[0, :3].sum().item()
    assert rollouts[0].episodes["return"][0] == pytest.approx(by_hand, abs=1e-4)


def test_the_steps_spent_on_resetting_are_masked():
    (rollout,), _ = collected(AutoresetMode.NEXT_STEP, n_steps=12, rollouts=1)
    assert (~rollout.mask[0]).nonzero()[:, 0].tolist() == [3, 7, 11]
    assert (~rollout.mask[1]).nonzero()[:, 0].tolist() == [4, 9]
    assert rollout.mask[2].all()
    assert (rollout.rewards[~rollout.mask] == 0).all() and not rollout.ended[~rollout.mask].any()
    assert rollout.num_steps == 36 - 5
    assert len(rollout.batch()) == 31


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_is_told_where_episodes_begin(mode):
    """At t = 0 and nowhere else; its state does not outlive a rollout."""

    class Told(MlpPolicy):
        def act(self, observation, state=None, episode_start=None, deterministic=False):
            calls.append((state, observation[:, 1] == 0, np.array(episode_start)))
            return *super().act(observation, None, episode_start, deterministic)[:3], "state"

    calls: list[tuple] = []
    envs = counting_envs(mode)
    policy = Told(envs.single_observation_space, envs.single_action_space, seed=0)
    collector = StepCollector(envs, seed=0)
    for _ in range(3):
        collector.collect(policy, 8)
    assert [state for state, _, _ in calls] == [None, *["state"] * 7] * 3
    for _, begins, told in calls:
        assert begins.tolist() == told.tolist()


def test_boxes_are_clipped_on_their_way_to_the_environment_only():
    class Echo(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gym.spaces.Box(-0.1, 0.1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return np.zeros(1, np.float32), float(action[0]), False, False, {}

    envs = SyncVectorEnv([Echo] * 2)
    policy = MlpPolicy(envs.single_observation_space, envs.single_action_space, seed=0)
    policy.seed(0)
    rollout = StepCollector(envs).collect(policy, 10)
    assert rollout.actions.abs().max() > 0.5
    assert_close(rollout.rewards, rollout.actions[..., 0].clamp(-0.1, 0.1))
    normal = torch.distributions.Normal(0.0, 1.0)
    means = policy.actor(torch.zeros(1, 1))[0]
    assert_close(rollout.log_probs, normal.log_prob(rollout.actions[..., 0] - means).detach())


# A language model, step by step


def agent_for(env, model, **kwargs) -> PPO:
    agent = PPO(
        "CausalLMPolicy", env, seed=0, policy_kwargs={"model": model, "temperature": 0.8}, **kwargs
    )
    nn.init.normal_(agent.policy.value_head.weight, generator=torch.Generator().manual_seed(1))
    return agent


def assert_evaluates_to_what_acted(agent, rollout: Rollout) -> None:
    now = agent.policy.evaluate(rollout.observations, rollout.actions, rollout.mask)
    where = rollout.mask
    assert_close(now.log_probs[where].detach(), rollout.log_probs[where], **CLOSE)
    assert_close(now.values[where].detach(), rollout.values[where], **CLOSE)


def test_a_single_environment_of_gym_make(text_kwargs, make_model):
    agent = agent_for(gym.make("TextGen-v0", **text_kwargs(stop=[5])), make_model(), n_steps=17)
    for _ in range(3):  # the rollouts begin and end in the midst of episodes
        rollout = agent.collect()
        assert rollout.sequential and rollout.num_steps == 17
        assert_evaluates_to_what_acted(agent, rollout)
    assert agent.num_timesteps == 51
    assert len(rollout.episodes["score"]) == len(rollout.episodes["length"]) > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapped_vector_environment_is_driven_as_it_is(mode, make_text_envs, make_model):
    envs = gym.wrappers.vector.RecordEpisodeStatistics(
        make_text_envs(5, autoreset_mode=mode, stop=[5])
    )
    agent = agent_for(envs, make_model(), n_steps=13)
    assert agent.env is envs and not agent.scores_batches
    for _ in range(2):
        rollout = agent.collect()
        assert_evaluates_to_what_acted(agent, rollout)
        if mode != AutoresetMode.NEXT_STEP:
            assert rollout.num_steps == 5 * 13
    # Rows are whole episodes, or the parts of them that fell into the rollout.
    assert (rollout.mask.long().diff(dim=1) <= 0).all()
    ends = torch.where(rollout.ended, torch.arange(rollout.mask.shape[1]), -1).amax(dim=1)
    lengths = rollout.mask.sum(dim=1)
    assert ((ends == lengths - 1) | (ends == -1)).all()
    assert (ends >= 0).sum() == len(rollout.episodes["return"])


@pytest.mark.parametrize("mode", MODES)
def test_step_by_step_equals_whole_episodes(mode, make_text_envs, make_model):
    """The first episode of each row is the same, whichever way it is driven."""
    shaping = dict(reference=make_model(seed=7), kl_coef=0.4, max_new_tokens=4, min_new_tokens=4)
    whole = agent_for(make_text_envs(6, **shaping), make_model())
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(
        make_text_envs(6, autoreset_mode=mode, **shaping)
    )
    stepwise = agent_for(wrapped, make_model(), n_steps=4)
    assert whole.scores_batches and not stepwise.scores_batches
    one, other = whole.collect(), stepwise.collect()
    width = other.observations["input_ids"].shape[1]
    # The order of the rows is that in which their episodes ended: all at once, so unchanged.
    for key, rows in one.observations.items():
        kept = rows if rows.ndim == 1 else rows[:, :width]
        assert_close(kept, other.observations[key])
    for name in ("actions", "mask", "ended"):
        assert_close(getattr(one, name), getattr(other, name))
    for name in ("log_probs", "values", "next_values", "rewards"):
        assert_close(getattr(one, name), getattr(other, name), **CLOSE)
    for name in ("return", "score"):
        assert one.episodes[name] == pytest.approx(other.episodes[name], abs=1e-4)
    assert one.episodes["response"] == other.episodes["response"]


def test_text_cut_short_bootstraps_from_its_last_observation(text_kwargs, make_model):
    env = gym.wrappers.TimeLimit(gym.make("TextGen-v0", **text_kwargs(min_new_tokens=5)), 3)
    agent = agent_for(env, make_model(), n_steps=6)
    rollout = agent.collect()
    assert rollout.mask.shape == (2, 3) and rollout.ended[:, -1].all()
    ids = rollout.observations["input_ids"]
    lengths = rollout.observations["prompt_lengths"] + 3
    attention = torch.arange(ids.shape[1]) < lengths[:, None]
    final = [
        agent.policy.predict_values({"input_ids": i[None], "attention_mask": a[None]})
        for i, a in zip(ids, attention, strict=True)
    ]
    assert_close(rollout.next_values[:, -1], torch.cat(final), **CLOSE)
    assert (rollout.next_values[:, -1] != 0).all()


# Batches


def rollout_of(mask: list[list[int]], sequential: bool) -> Rollout:
    counts = torch.tensor(mask, dtype=torch.bool)
    numbers = torch.arange(counts.numel(), dtype=torch.float32).reshape(counts.shape)
    observations = {"input_ids": numbers} if sequential else numbers[..., None]
    zeros = torch.zeros_like(numbers)
    return Rollout(
        observations, numbers, numbers, zeros, zeros, zeros, zeros.bool(), counts, sequential
    )


def test_steps_become_rows_of_their_own():
    rollout = rollout_of([[1, 1, 0, 1], [1, 0, 0, 1]], sequential=False)
    batch = rollout.batch(advantages=rollout.actions * 10)
    assert len(batch) == batch.num_steps == batch.num_rows == rollout.num_steps == 5
    assert batch.mask.shape == (5, 1) and batch.mask.all()
    assert batch.actions[:, 0].tolist() == [0, 1, 3, 4, 7]
    assert batch.observations[:, 0, 0].tolist() == [0, 1, 3, 4, 7]
    assert batch.advantages[:, 0].tolist() == [0, 10, 30, 40, 70]
    assert batch.reference_log_probs is None


def test_sequences_stay_whole():
    rollout = rollout_of([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], sequential=True)
    batch = rollout.batch()
    assert (len(batch), batch.num_steps, batch.num_rows) == (3, 5, 2)
    assert batch.actions is rollout.actions


def test_minibatches_hold_each_row_once_and_count_for_themselves():
    mask = (torch.arange(4) < torch.tensor([[1], [2], [3], [4], [2]])).int().tolist()
    rollout = rollout_of(mask, sequential=True)
    parts = list(rollout.batches(2, torch.Generator().manual_seed(0)))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [part.num_rows for part in parts] == [2, 2, 1]
    assert [part.num_steps for part in parts] == [int(part.mask.sum()) for part in parts]
    rows = [row for part in parts for row in part.actions[:, 0].tolist()]
    assert sorted(rows) == [0, 4, 8, 12, 16] and rows != sorted(rows)
    again = rollout.batches(2, torch.Generator().manual_seed(0))
    assert [part.actions[:, 0].tolist() for part in again] == [
        part.actions[:, 0].tolist() for part in parts
    ]


def test_micro_batches_know_the_counts_of_the_whole():
    mask = (torch.arange(4) < torch.tensor([[1], [2], [3], [4], [2]])).int().tolist()
    batch = rollout_of(mask, sequential=True).batch()
    parts = list(batch.micro_batches(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert {(part.num_rows, part.num_steps) for part in parts} == {(5, 12)}
    assert_close(torch.cat([part.actions for part in parts]), batch.actions)
    assert list(batch.micro_batches(None)) == [batch] == list(batch.micro_batches(5))


def test_a_chosen_batch_counts_anew():
    batch = rollout_of([[1, 1, 0], [1, 1, 1], [1, 0, 0]], sequential=True).batch()
    chosen: Batch = batch.take(torch.tensor([2, 0]))
    assert (chosen.num_rows, chosen.num_steps) == (2, 3)
    rows: Tensor = chosen.observations["input_ids"]
    assert rows[:, 0].tolist() == [6, 0]
