"""β follows the KL of the rollouts, once after each, however they are collected."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from agents import PPO
from agents.evaluation import evaluate_text
from agents.experience import environments
from textenv import AdaptiveKL, TextGenEnv

ADAPTIVE = {"target": 0.5, "horizon": 200, "initial": 0.3}


@dataclass
class Noting:
    """A schedule of one's own that notes what it is told."""

    value: float = 0.3
    told: list = field(default_factory=list)

    def update(self, kl: float, num_episodes: int) -> None:
        self.told.append((kl, num_episodes))
        self.value += 0.01


@pytest.fixture
def ways(make_text_envs, wrapped, text_kwargs, make_model, make_agent):
    """``ways(schedule)``: agents that collect the same episodes in batches, by steps, and by steps
    from single environments."""

    def make(schedule):
        kwargs = dict(reference=make_model(seed=7), max_new_tokens=4, min_new_tokens=4)
        one, other = schedule(), schedule()
        third = schedule()  # one for all rows
        singles = [lambda: TextGenEnv(**text_kwargs(kl_coef=third, **kwargs))] * 6
        envs = [
            make_text_envs(6, kl_coef=one, **kwargs),
            wrapped(6, kl_coef=other, autoreset_mode="same_step", **kwargs),
            SyncVectorEnv(singles, autoreset_mode="SameStep"),
        ]
        every = [make_agent("PPO", envs=env, n_steps=4, n_epochs=1) for env in envs]
        return every, (one, other, third)

    return make


def test_the_schedule_is_told_once_of_each_rollout(ways):
    every, schedules = ways(Noting)
    for agent, schedule in zip(every, schedules, strict=True):
        kls = [agent.collect().episodes["kl"] for _ in range(2)]
        wanted = [(pytest.approx(np.mean(kl), abs=1e-6), 6) for kl in kls]
        assert schedule.told == wanted
    first = [schedule.told[0][0] for schedule in schedules]
    assert first == pytest.approx([first[0]] * 3, abs=1e-4)


def test_beta_is_the_same_in_every_way_of_scoring(ways):
    every, schedules = ways(lambda: AdaptiveKL(**ADAPTIVE))
    for _ in range(3):
        for agent in every:
            agent.update(agent.collect())
        values = [schedule.value for schedule in schedules]
        assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    assert values[0] > 0.3 * 1.015


@pytest.mark.parametrize(
    ("way", "betas"),
    [
        (0, [0.3, 0.31, 0.32]),
        # SAME_STEP begins the next episodes in the last step of a rollout, before β moves.
        (1, [0.3, 0.3, 0.31]),
    ],
)
def test_episodes_keep_the_beta_with_which_they_begin(way, betas, ways):
    agent = ways(Noting)[0][way]
    for beta in betas:
        rollout = agent.collect()
        kl = (rollout.log_probs - rollout.reference_log_probs)[:, :-1]
        assert kl.abs().max() > 0.1
        assert rollout.rewards[:, :-1].numpy() == pytest.approx((-beta * kl).numpy(), abs=1e-4)


def test_evaluation_does_not_move_the_schedule(ways):
    every, schedules = ways(Noting)
    for agent in every:
        evaluate_text(agent, agent.env, n_episodes=4)
        evaluate_text(agent, n_episodes=4)
    assert [schedule.told for schedule in schedules] == [[], [], []]


def test_beta_is_saved_and_restored_with_the_agent(model_folder, tmp_path):
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", n_envs=8, seed=0, device="cpu", n_epochs=1,
        policy_kwargs={"model": model_folder},
        env_kwargs={"prompts": ["a b", "c"], "reward": "length", "reference": model_folder,
                    "kl_coef": ADAPTIVE},
    ).learn(200)  # fmt: skip
    (schedule,) = environments.schedules(agent.env)
    assert schedule.value != 0.3
    agent.save(tmp_path)
    (again,) = environments.schedules(PPO.load(tmp_path, device="cpu").env)
    assert again == schedule
    given = PPO.load(tmp_path, env_kwargs={"kl_coef": 0.7}, device="cpu")
    assert environments.schedules(given.env)[0].value == 0.7


def test_a_schedule_without_episodes_is_not_told(on_cartpole, ways):
    every, schedules = ways(Noting)
    agent = every[1]
    agent.n_steps = 2  # no episode ends in the first two steps
    agent.collect()
    assert schedules[1].told == []
    agent.collect()
    assert len(schedules[1].told) == 1
