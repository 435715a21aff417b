"""Many rows at once: each behaves as the single environment does, however they are driven."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from textenv import TextGenEnv, TextGenVectorEnv
from textenv.arrays import to_numpy

EVERY_WAY = [{"autoreset_mode": mode.name} for mode in AutoresetMode]
EVERY_WAY.append({"autoreset_mode": "DISABLED", "scoring": "batch"})


def assert_same(left, right, tolerance=0.0):
    """Equality of observations and infos of any depth; infos count where their masks say so."""
    if isinstance(left, dict):
        names = {key.removeprefix("_") for key in {*left, *right}}
        for name in names:
            if f"_{name}" not in left and f"_{name}" not in right:
                assert_same(left[name], right[name], tolerance)
                continue
            masks = [
                infos[f"_{name}"] if name in infos else np.zeros(4, bool) for infos in (left, right)
            ]
            assert masks[0].dtype == np.bool_ and masks[0].tolist() == masks[1].tolist(), name
            if not masks[0].any():
                continue
            if isinstance(left[name], dict):
                assert_same(left[name], right[name], tolerance)
                continue
            for row in np.flatnonzero(masks[0]):
                assert_same(left[name][row], right[name][row], tolerance)
        return
    if isinstance(left, str):
        assert left == right
        return
    np.testing.assert_allclose(to_numpy(left), to_numpy(right), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("array", "with_reference"), [("numpy", False), ("torch", True)])
def test_rows_behave_as_single_environments_in_gymnasiums_sync_vector_env(
    mode, array, with_reference, make_envs, arguments, make_model, random_actions
):
    changes = {
        "min_new_tokens": 1,
        "stop": [1, "zz"],
        "no_stop_penalty": 0.5,
        "reference": make_model() if with_reference else None,
    }
    native = make_envs(**changes, autoreset_mode=mode, array=array)
    sync = SyncVectorEnv([lambda: TextGenEnv(**arguments, **changes)] * 4, autoreset_mode=mode)
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    tolerance = 1e-4 if with_reference else 1e-6
    for ours, theirs in zip(native.reset(seed=5), sync.reset(seed=5), strict=True):
        assert_same(ours, theirs)
    ended_at_all = 0
    for actions in random_actions(0, 60):
        ours = native.step(torch.tensor(actions) if array == "torch" else actions)
        theirs = sync.step(actions)
        for part, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, other, tolerance if part in (1, 4) else 0)
        ended = theirs[2]
        ended_at_all += ended.sum()
        if mode == AutoresetMode.DISABLED and ended.any():
            begun = [env.reset(options={"reset_mask": ended.copy()}) for env in (native, sync)]
            for mine, other in zip(*begun, strict=True):
                assert_same(mine, other)
    assert ended_at_all > 30


def test_row_i_is_the_single_environment_with_seed_plus_i(
    mode, make_envs, arguments, random_actions
):
    env = make_envs(autoreset_mode=mode)
    _, infos = env.reset(seed=100)
    begun = [[prompt] for prompt in infos["prompt"]]
    for actions in random_actions(1, 40):
        _, _, terminated, _, infos = env.step(actions)
        if mode == AutoresetMode.DISABLED and terminated.any():
            _, infos = env.reset(options={"reset_mask": terminated})
        for row in np.flatnonzero(infos.get("_prompt", np.zeros(4, bool))):
            begun[row].append(infos["prompt"][row])
    for row, prompts in enumerate(begun):
        single = TextGenEnv(**arguments)
        wanted = [single.reset(seed=100 + row)[1]["prompt"]]
        wanted += [single.reset()[1]["prompt"] for _ in prompts[1:]]
        assert len(prompts) > 5 and prompts == wanted


@pytest.mark.parametrize("driving", EVERY_WAY, ids=["-".join(way.values()) for way in EVERY_WAY])
@pytest.mark.parametrize("coefficient", [None, 0.3])
def test_numpy_and_torch_agree(driving, coefficient, make_envs, make_model, random_actions, bound):
    model, reference = make_model(seed=0), make_model(seed=1)
    arrays, kinds = ("numpy", "torch"), (np.ndarray, torch.Tensor)
    envs = []
    for array in arrays:
        shaping = {} if coefficient is None else {"reference": reference, "kl_coef": coefficient}
        envs.append(make_envs(array=array, **driving, **shaping))
        bound(envs[-1], model)
    observations = [env.reset(seed=2) for env in envs]
    assert_same(*[observation for observation, _ in observations])
    for actions in random_actions(3, 25):
        results = []
        for env, kind, (observation, *_) in zip(envs, kinds, observations, strict=True):
            if coefficient is not None:
                env.shaping.policy.act(observation, torch.tensor(actions))
            results.append(env.step(actions))
            rewards, terminated, truncated = results[-1][1:4]
            for value in (*results[-1][0].values(), rewards, terminated, truncated):
                assert isinstance(value, kind)
        for mine, other in zip(*results, strict=True):
            assert_same(mine, other, 1e-5)
        rewards, terminated, truncated = results[0][1:4]
        assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
        rewards, terminated, truncated = results[1][1:4]
        assert (rewards.dtype, terminated.dtype) == (torch.float32, torch.bool)
        observations = results
        ended = to_numpy(terminated)
        if driving["autoreset_mode"] == "DISABLED" and ended.any():
            observations = [env.reset(options={"reset_mask": ended}) for env in envs]


def test_reconfiguring_asks_for_a_reset(make_envs):
    env = make_envs()
    env.reset(seed=0)
    env.reconfigure(AutoresetMode.DISABLED, "batch", "torch")
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert TextGenVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before step\(\)"):
        env.step(torch.zeros(4, dtype=torch.int64))
    observation, _ = env.reset(seed=0)
    assert isinstance(observation["input_ids"], torch.Tensor)


def test_gymnasiums_statistics_agree_with_the_episodes(mode, make_envs, random_actions):
    release = tuple(map(int, gym.__version__.split(".")[:2]))
    if mode == AutoresetMode.SAME_STEP and release < (1, 4):
        pytest.skip("Gymnasium's wrapper reports returns of 0 in this mode before release 1.4")
    env = RecordEpisodeStatistics(make_envs(autoreset_mode=mode, no_stop_penalty=0.25))
    env.reset(seed=0)
    episodes = 0
    for actions in random_actions(5, 60):
        _, _, terminated, _, infos = env.step(actions)
        details = infos.get("final_info", infos)
        for row in np.flatnonzero(terminated):
            paid = details["score"][row] - details["no_stop_penalty"][row]
            assert infos["episode"]["r"][row] == pytest.approx(paid)
            assert infos["episode"]["l"][row] == details["response_length"][row]
        episodes += terminated.sum()
        if mode == AutoresetMode.DISABLED and terminated.any():
            env.reset(options={"reset_mask": terminated.copy()})
    assert env.episode_count == episodes > 30


def test_gymnasiums_statistics_of_batch_scoring_are_the_returns(make_envs, batch):
    env = RecordEpisodeStatistics(make_envs(2, **batch))
    env.reset(seed=0)
    env.step(np.array([60, 0]))
    *_, infos = env.step(np.array([0, 60]))
    assert infos["episode"]["r"] == pytest.approx(infos["score"])


def test_rows_that_do_not_divide_into_groups_are_refused(make_small):
    with pytest.raises(ValueError, match=r"num_envs=4 must be a multiple of group_size=3"):
        make_small(4, group_size=3)
    with pytest.raises(ValueError, match=r"num_envs=0 must be a whole number of at least 1"):
        make_small(0)


def test_unknown_ways_of_driving_are_refused(refuses):
    refuses(r"scoring='steps' must be 'step' or 'batch'", single=False, scoring="steps")
    refuses(r"array='jax' must be 'numpy' or 'torch'", single=False, array="jax")
    refuses(
        r"autoreset_mode='never' is unknown: use one of 'NEXT_STEP', 'SAME_STEP', 'DISABLED'",
        single=False,
        autoreset_mode="never",
    )


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_batch_scoring_with_autoreset_is_refused(mode, refuses):
    refuses(
        rf"scoring='batch' needs autoreset_mode=AutoresetMode.DISABLED, .* this is '{mode.value}'",
        single=False,
        autoreset_mode=mode,
        scoring="batch",
    )


@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "Disabled", AutoresetMode.DISABLED])
def test_a_mode_may_be_written_as_a_string(mode, make_small):
    assert make_small(autoreset_mode=mode).metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_step_before_reset_is_refused(array, make_small):
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before step\(\)"):
        make_small(array=array).step(np.zeros(2, np.int64))
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before step\(\)"):
        make_small(None).step(0)


@pytest.mark.parametrize("scoring", ["step", "batch"])
def test_rows_that_have_ended_are_not_stepped_without_autoreset(scoring, make_small, run_out):
    env = make_small(autoreset_mode="DISABLED", scoring=scoring)
    run_out(env)
    with pytest.raises(
        gym.error.ResetNeeded,
        match=r"The episodes of rows \[0, 1\] have ended and nothing has reset them: call "
        r"reset\(\), or reset\(options=\{'reset_mask': mask\}\)",
    ):
        env.step(np.array([5, 6]))


def test_a_reset_of_some_ended_rows_does_not_let_the_others_go_on(array, make_small):
    env = make_small(3, autoreset_mode="DISABLED", array=array)
    env.reset()
    env.step(np.array([0, 0, 50]))  # rows 0 and 1 stop
    env.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(gym.error.ResetNeeded, match=r"The episodes of rows \[1\] have ended"):
        env.step(np.array([50, 50, 50]))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(np.array([50, 50, 50]))
