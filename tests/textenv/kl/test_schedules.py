"""β: a number, or a schedule that whoever collects rollouts moves, and never the environment."""

from __future__ import annotations

import pytest
import torch

from textenv import AdaptiveKL
from textenv.kl.schedules import FixedKL, KLSchedule, resolve_schedule


def test_the_adaptive_coefficient_by_hand():
    schedule = AdaptiveKL(target=6, horizon=10_000, initial=0.2)
    schedule.update(kl=12, num_episodes=256)  # the error is clipped at 0.2
    assert schedule.value == pytest.approx(0.201024, abs=1e-12)
    schedule.update(kl=6, num_episodes=256)
    assert schedule.value == pytest.approx(0.201024, abs=1e-12)
    schedule.update(kl=0, num_episodes=100)
    assert schedule.value == pytest.approx(0.201024 * (1 - 0.2 * 100 / 10_000), abs=1e-12)
    schedule.update(kl=6.6, num_episodes=1000)
    assert schedule.value == pytest.approx(0.201024 * 0.998 * (1 + 0.1 * 0.1), abs=1e-9)


def test_a_fixed_coefficient_stays_as_it_is():
    schedule = FixedKL(0.3)
    schedule.update(kl=100, num_episodes=1000)
    assert schedule.value == 0.3


def test_a_number_a_mapping_and_a_schedule_are_schedules():
    assert resolve_schedule(0.25) == FixedKL(0.25)
    wanted = AdaptiveKL(target=3, horizon=500, initial=0.1)
    assert resolve_schedule({"target": 3, "horizon": 500, "initial": 0.1}) == wanted
    assert resolve_schedule({}) == AdaptiveKL()
    assert resolve_schedule(wanted) is wanted
    assert isinstance(wanted, KLSchedule) and isinstance(FixedKL(0.1), KLSchedule)


def test_the_data_of_a_schedule_make_it_anew_from_its_beginning():
    schedule = AdaptiveKL(target=3, horizon=500, initial=0.1)
    schedule.update(kl=100, num_episodes=100)
    again = resolve_schedule(schedule.as_data())
    assert (again.target, again.horizon, again.value) == (3, 500, 0.1)


@pytest.mark.parametrize("arguments", [{"target": 0}, {"horizon": -1}, {"initial": 0}])
def test_a_schedule_that_cannot_work_is_refused(arguments):
    for make in (lambda: AdaptiveKL(**arguments), lambda: resolve_schedule(arguments)):
        with pytest.raises(ValueError, match=r"AdaptiveKL\(target=.*\): all three must be above 0"):
            make()


@pytest.mark.parametrize("arguments", [{"goal": 6.0}, {"target": "6"}])
def test_a_mapping_that_does_not_fit_is_refused(arguments):
    with pytest.raises(
        ValueError, match=r"kl_coef=\{.*\} does not fit AdaptiveKL\(target, horizon, initial\)"
    ):
        resolve_schedule(arguments)


def test_more_episodes_at_once_than_the_horizon_bears_are_refused():
    schedule = AdaptiveKL(horizon=100)
    with pytest.raises(ValueError, match=r"AdaptiveKL\(horizon=100\) is too short for 500 epis"):
        schedule.update(kl=0.0, num_episodes=500)
    assert schedule.value == 0.2


class NeverMoved(AdaptiveKL):
    """An environment must not call ``update``."""

    def update(self, kl, num_episodes):
        raise AssertionError("the environment moved the schedule")


def test_no_environment_moves_the_schedule(driving, make_envs, make_model, bound):
    env = make_envs(2, reference=make_model(seed=1), kl_coef=NeverMoved(initial=0.5), **driving)
    policy = bound(env, make_model(seed=0))
    observation, _ = env.reset(seed=0)
    for actions in ([60, 60], [60, 0], [60, 61], [60, 62], [60, 63]):
        policy.act(observation, torch.tensor(actions))
        observation, _, terminated, _, _ = env.step(policy.action_record.actions.numpy())
    assert terminated[0] and env.shaping.schedule.value == 0.5


def test_step_and_batch_scoring_pay_at_the_same_coefficient(
    make_envs, make_model, bound, play_batch, batch
):
    model, schedule = make_model(seed=0), AdaptiveKL(initial=0.5)
    arguments = {"reference": make_model(seed=1), "kl_coef": schedule, "stop": list(range(60))}
    envs = make_envs(6, **arguments, **batch)
    policy = bound(envs, model)
    for seed in range(3):  # several batches: a coefficient that moved would show in the later ones
        actions, returns, infos = play_batch(envs, policy, seed)
    steps = make_envs(6, **arguments)
    again = bound(steps, model)
    observation, _ = steps.reset(seed=2)
    paid = torch.zeros(6, dtype=torch.float64)
    for t, chosen in enumerate(actions):
        again.act(observation, chosen)
        observation, rewards, *_ = steps.step(chosen.numpy())
        paid += torch.from_numpy(rewards * (t < infos["response_length"]))
    torch.testing.assert_close(paid, torch.from_numpy(returns), rtol=0, atol=1e-3)
    assert schedule.value == 0.5


def test_an_episode_keeps_the_coefficient_with_which_it_began(
    driving, make_envs, make_model, bound
):
    schedule = AdaptiveKL(initial=0.5)
    env = make_envs(1, reference=make_model(seed=1), kl_coef=schedule, **driving)
    policy = bound(env, make_model(seed=0))
    for began_with, meanwhile in ((0.5, 2.0), (2.0, 0.25), (0.25, 1.0)):
        observation, _ = env.reset(seed=0)
        paid, total_kl = 0.0, 0.0
        for token in (60, 61, 62, 63, 64):
            policy.act(observation, torch.tensor([token]))
            observation, rewards, _, _, infos = env.step(policy.action_record.actions.numpy())
            schedule.value = meanwhile
            paid += rewards[0]
            total_kl += infos["token_kl"].sum() if "token_kl" in infos else infos.get("kl", [0])[0]
        assert paid - infos["score"][0] == pytest.approx(-began_with * total_kl, abs=1e-4)
        assert abs(total_kl) > 0.1


def test_each_row_keeps_its_own_coefficient(make_envs, make_model, bound):
    schedule = AdaptiveKL(initial=0.5)
    env = make_envs(2, reference=make_model(seed=1), kl_coef=schedule)
    policy = bound(env, make_model(seed=0))
    observation, _ = env.reset(seed=0)
    schedule.value = 2.0
    for actions in ([60, 0], [60, 60], [61, 60]):  # row 1 ends, is reset, and begins at 2.0
        policy.act(observation, torch.tensor(actions))
        observation, rewards, _, _, infos = env.step(policy.action_record.actions.numpy())
    assert rewards.tolist() == pytest.approx((-infos["kl"] * [0.5, 2.0]).tolist(), abs=1e-5)


def test_a_mapping_is_enough_to_adapt(make_small, make_model):
    for num_envs in (2, None):
        env = make_small(num_envs, reference=make_model(), kl_coef={"target": 3, "initial": 0.4})
        assert env.shaping.schedule == AdaptiveKL(target=3, initial=0.4)
