"""When the reward is asked, and how its answer becomes rewards."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from textenv import RewardError
from textenv.arrays import to_numpy
from textenv.rows import scoring
from textenv.rows.scoring import BatchScoring, at_the_last_token


def test_batch_scoring_by_hand(make_envs, batch):
    calls = []

    def lengths(episodes):
        calls.append([(episode.prompt, episode.response) for episode in episodes])
        return [float(len(episode.response_ids)) for episode in episodes]

    env = make_envs(3, reward=lengths, no_stop_penalty=0.5, stop="!", **batch)
    env.reset(options={"prompt_index": np.array([0, 1, 2])})
    Q, R, end, bang = 50, 51, 0, 2  # "Q", "R", "<end>", "!"
    steps = [
        env.step(np.array(actions))
        for actions in ([Q, end, Q], [Q, Q, bang], [R, end, Q], [Q, Q, Q], [Q, 1, R])
    ]
    for _, rewards, terminated, truncated, infos in steps[:-1]:
        assert rewards.tolist() == [0, 0, 0] and infos == {}
        assert not terminated.any() and not truncated.any()
    observation, rewards, terminated, truncated, infos = steps[-1]
    assert calls == [[("a", "QQRQQ"), ("bcd", ""), ("ef", "Q")]]
    assert terminated.tolist() == [True, True, True] and not truncated.any()
    assert rewards.tolist() == [4.5, 1, 2]
    assert infos["token_rewards"].tolist() == [[0, 0, 0, 0, 4.5], [1, 0, 0, 0, 0], [0, 2, 0, 0, 0]]
    assert infos["response_length"].tolist() == [5, 1, 2]
    assert infos["finish_reason"].tolist() == ["length", "stop", "stop"]
    assert infos["score"].tolist() == [5, 1, 2]
    assert infos["no_stop_penalty"].tolist() == [0.5, 0, 0]
    # Actions of rows that have ended are ignored.
    assert observation["attention_mask"].sum(1).tolist() == [6, 4, 4]
    assert observation["input_ids"][1].tolist() == [*env.prompts[1].ids, end, *[0] * 6]


def test_batch_scoring_ends_as_soon_as_the_last_row_does(make_envs, batch):
    env = make_envs(3, **batch)
    env.reset(seed=0)
    assert not env.step(np.array([0, 60, 60]))[2].any()
    _, _, terminated, _, infos = env.step(np.array([60, 0, 0]))
    assert terminated.all() and infos["token_rewards"].shape == (3, 2)
    env.reset()
    assert env.step(np.array([0, 0, 0]))[2].all()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            [1.0, float("nan")],
            r"reward 'odd' scored episode 1 with nan, which is not a finite real",
        ),
        (
            [float("inf"), 1.0],
            r"reward 'odd' scored episode 0 with inf, which is not a finite real",
        ),
        ([1.0, None], r"scored episode 1 with None, which is not a finite real .* response 'QQQ'"),
        ([1.0], r"reward 'odd' answered with 1 scores for 2 episodes: return 2 numbers"),
        (1.0, r"reward 'odd' answered with 1\.0, a float: return 2 numbers"),
        (torch.ones(2, 1), r"reward 'odd' answered with the shape \(2, 1\): return 2 numbers"),
        (torch.tensor(1.0), r"reward 'odd' answered with the shape \(\): return 2 numbers"),
    ],
    ids=["nan", "inf", "None", "count", "number", "matrix", "scalar"],
)
def test_an_answer_that_is_not_one_number_an_episode_is_refused(
    driving, answer, message, make_small, run_out
):
    def odd(episodes):
        return answer

    with pytest.raises(RewardError, match=message):
        run_out(make_small(reward=odd, **driving))


@pytest.mark.parametrize("num_envs", [2, None])
def test_what_a_reward_raises_is_told_with_its_cause(num_envs, make_small, run_out):
    def broken(prompt, response):
        return {}["missing"]

    env = make_small(num_envs, reward=broken)
    with pytest.raises(
        RewardError,
        match=r"reward 'broken' raised KeyError: 'missing'; it was given episode 0, with prompt "
        r"'(ab|longer)' and response 'QQQ'",
    ) as raised:
        if num_envs is None:
            env.reset()
            for _ in range(3):
                env.step(50)
        else:
            run_out(env)
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "driving",
    [{"autoreset_mode": mode} for mode in AutoresetMode]
    + [{"autoreset_mode": AutoresetMode.DISABLED, "scoring": "batch"}],
)
def test_an_episode_whose_reward_failed_does_not_go_on_in_silence(driving, make_small, run_out):
    calls = []

    def fails_once(episodes):
        calls.append(len(episodes))
        return [1.0 / (len(calls) - 1)] * len(episodes)

    env = make_small(reward=fails_once, **driving)
    with pytest.raises(RewardError, match=r"raised ZeroDivisionError"):
        run_out(env)
    if driving["autoreset_mode"] == AutoresetMode.NEXT_STEP:
        *_, infos = env.step(np.array([50, 50]))
        assert infos["_prompt"].all() and infos["prompt"][0] in ("ab", "longer")
    else:
        with pytest.raises(gym.error.ResetNeeded, match=r"rows \[0, 1\] have ended"):
            env.step(np.array([50, 50]))
        run_out(env)
    assert calls[0] == 2


def test_what_is_paid_stands_at_the_last_token():
    paid, lengths = torch.tensor([5.0, 6.0, 7.0]), torch.tensor([2, 1, 4])
    rewards, mask = at_the_last_token(paid, lengths, 4)
    assert rewards.tolist() == [[0, 5, 0, 0], [6, 0, 0, 0], [0, 0, 0, 7]]
    assert mask.tolist() == [[True, True, False, False], [True] + [False] * 3, [True] * 4]


def test_a_step_that_was_refused_does_not_count_towards_the_budget(
    make_envs, make_model, bound, batch
):
    env = make_envs(2, reference=make_model(), kl_coef=0.1, **batch)
    policy = bound(env, make_model(seed=1))
    observation, _ = env.reset(seed=0)
    for number in range(1, 6):
        with pytest.raises(RuntimeError, match=r"action_record"):  # it has not acted
            env.step(np.array([60, 60]))
        policy.act(observation, torch.tensor([60, 60]))
        observation, _, terminated, _, infos = env.step(np.array([60, 60]))
        assert terminated.all() == (number == 5)
    assert infos["response_length"].tolist() == [5, 5]


def test_a_batch_that_was_left_unfinished_leaves_nothing_behind(
    make_envs, make_model, bound, play_batch, batch
):
    played = []
    for abandoned in (0, 2):
        env = make_envs(2, reference=make_model(seed=1), kl_coef=0.5, **batch)
        policy = bound(env, make_model(seed=0))
        observation, _ = env.reset(seed=5)
        for _ in range(abandoned):
            policy.act(observation, torch.tensor([70, 71]))
            observation, *_ = env.step(np.array([70, 71]))
        actions, returns, infos = play_batch(env, policy)
        played.append([actions.tolist(), returns.tolist(), infos["token_kl"].tolist()])
    assert played[0] == played[1]


# --- rarely asking an accelerator ---------------------------------------------------------------


class Behind:
    """An object with some of its attributes replaced."""

    def __init__(self, inner, **changes):
        self._inner = inner
        self.__dict__.update(changes)

    def __getattr__(self, name):
        return getattr(self._inner, name)


def on(device, table):
    """The table as if it lay on this kind of device."""
    arrays = Behind(table.arrays, device=SimpleNamespace(type=device))
    return Behind(table, arrays=arrays)


class Rows:
    """Rows of which the last ends after so many steps; it counts how often it is asked."""

    def __init__(self, last):
        self.last, self.asked, self.steps = last, [], 0

    def any(self):
        self.asked.append(self.steps)
        return self.steps < self.last


@pytest.mark.parametrize(
    ("device", "last", "ends_at", "asked"),
    [
        ("cpu", 3, 3, [1, 2, 3]),
        ("cuda", 3, 4, [4]),
        ("cuda", 4, 4, [4]),
        ("cuda", 5, 8, [4, 8]),
        ("cuda", 9, 10, [4, 8]),  # the budget is known without asking
        ("cuda", 99, 10, [4, 8]),
    ],
)
def test_an_accelerator_is_asked_every_few_steps_only(device, last, ends_at, asked, monkeypatch):
    monkeypatch.setattr(scoring, "STEPS_BETWEEN_QUESTIONS", 4)
    rows = Rows(last)
    device = SimpleNamespace(device=torch.device(device))
    table = SimpleNamespace(running=rows, arrays=device, end=lambda ended, stops: None)
    batch = BatchScoring(SimpleNamespace(max_new_tokens=10), None, table, None)
    for _ in range(2):  # a second batch counts its steps anew
        batch.begin(np.ones(2, bool))
        rows.asked = []
        for rows.steps in range(1, 11):
            batch.record_actions(None)
            if batch.finish_rows(None, None):
                break
        assert rows.steps == ends_at and rows.asked == asked


@pytest.mark.parametrize("every", [2, 5, 8])
def test_to_ask_rarely_changes_when_rewards_come_and_not_what_they_are(
    every, make_envs, make_model, bound, batch, monkeypatch
):
    monkeypatch.setattr(scoring, "STEPS_BETWEEN_QUESTIONS", every)
    played = []
    for device in ("cpu", "cuda"):
        env = make_envs(
            3, array="torch", max_new_tokens=12, reference=make_model(seed=1), kl_coef=0.5, **batch
        )
        policy = bound(env, make_model(seed=0))
        env._scoring.table = on(device, env._table)
        observation, _ = env.reset(seed=0)
        for step in range(1, 13):
            ends_now = [step >= 2, step >= 3, step >= 1]
            actions = policy.act(observation, torch.where(torch.tensor(ends_now), 0, 60 + step))
            observation, rewards, terminated, _, infos = env.step(actions)
            if terminated.any():
                break
            assert infos == {} and not rewards.any()
        assert terminated.all() and step == (3 if device == "cpu" else -(-3 // every) * every)
        played.append([rewards, *(infos[key] for key in sorted(infos) if key[0] != "_")])
    for asked_always, asked_rarely in zip(*played, strict=True):
        left, right = to_numpy(asked_always), to_numpy(asked_rarely)
        assert left.tolist() == right.tolist()
