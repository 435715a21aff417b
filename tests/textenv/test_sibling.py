"""A sibling: another environment of the same task, which leaves the first one as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from textenv import AdaptiveKL, TextGenEnv, TextGenVectorEnv
from textenv.arrays import to_numpy
from textenv.kl.schedules import FixedKL


class NeverCopied:
    name = "never copied"

    def __call__(self, episodes):
        return [float(len(episode.response)) for episode in episodes]

    def __deepcopy__(self, memo):
        raise AssertionError("a live object was copied")


@pytest.mark.parametrize("num_envs", [2, None])
def test_a_sibling_shares_the_live_objects_and_the_arguments(num_envs, make_small, make_model):
    given = {"reward": NeverCopied(), "reference": make_model(), "kl_coef": 0.5}
    env = make_small(num_envs, **given, stop=["x", 1], min_new_tokens=1, no_stop_penalty=0.25)
    sibling = env.sibling(3)
    assert isinstance(sibling, TextGenVectorEnv) and sibling.num_envs == 3
    assert sibling.tokenizer is env.tokenizer
    assert sibling.task.reward is env.task.reward
    assert sibling.task.reward.function is given["reward"]
    assert sibling.task.reference is env.task.reference is given["reference"]
    assert len(sibling.prompts) == len(env.prompts)
    assert all(ours is theirs for ours, theirs in zip(sibling.prompts, env.prompts, strict=True))
    for name in ("max_new_tokens", "min_new_tokens", "stop", "no_stop_penalty"):
        assert sibling.task.arguments[name] == env.task.arguments[name]


def test_arguments_of_a_sibling_may_be_changed(make_envs, make_model):
    env = make_envs(reference=make_model(), group_size=2)
    driving = {"array": "torch", "autoreset_mode": "DISABLED", "scoring": "batch"}
    sibling = env.sibling(2, **driving, max_new_tokens=2, reference=None)
    assert (sibling.array, sibling.scoring, sibling.group_size) == ("torch", "batch", 1)
    assert sibling.autoreset_mode is AutoresetMode.DISABLED and sibling.shaping is None
    assert (sibling.max_new_tokens, env.max_new_tokens) == (2, 5)


def test_a_sibling_is_not_shaped_and_has_no_policy(driving, make_envs, make_model, bound):
    schedule = AdaptiveKL(initial=0.5)
    env = make_envs(2, reference=make_model(seed=1), kl_coef=schedule, **driving)
    policy = bound(env, make_model(seed=0))
    sibling = env.sibling(2, **driving)
    assert sibling.shaping.schedule == FixedKL(0.0) and sibling.shaping.policy is None
    sibling.reset(seed=0)
    paid = np.zeros(2)
    for _ in range(5):
        _, rewards, _, _, infos = sibling.step(np.array([60, 61]))
        paid += rewards
    assert paid.tolist() == infos["score"].tolist()
    assert env.shaping.schedule is schedule and schedule.value == 0.5
    assert env.shaping.policy is policy


def test_a_sibling_may_be_shaped_by_itself(make_envs, make_model, bound):
    env = make_envs(2, reference=make_model(seed=1))
    sibling = env.sibling(2, kl_coef=0.5)
    policy = bound(sibling, make_model(seed=0))
    observation, _ = sibling.reset(seed=0)
    policy.act(observation, torch.tensor([60, 61]))
    _, rewards, _, _, infos = sibling.step(np.array([60, 61]))
    assert rewards.tolist() == pytest.approx((-0.5 * infos["kl"]).tolist())
    assert env.shaping.policy is None and env.shaping.schedule == FixedKL(0.0)


def test_a_sibling_leaves_rows_prompts_and_coefficient_of_its_parent_alone(
    mode, array, make_envs, make_model, bound, random_actions
):
    def trace(visited):
        """The parent's run, with or without a sibling that is driven between its steps."""
        env = make_envs(
            array=array,
            autoreset_mode=mode,
            group_size=2,
            reference=make_model(seed=1),
            kl_coef=AdaptiveKL(initial=0.5),
        )
        policy = bound(env, make_model(seed=0))
        observation, infos = env.reset(seed=7)
        told = [infos["prompt"].tolist()]
        for number, actions in enumerate(random_actions(2, 12)):
            if visited and number in (0, 1, 7):
                sibling = env.sibling(3, array=array)
                sibling.reset(seed=number)
                for others in random_actions(number, 8, rows=3):
                    sibling.step(torch.tensor(others) if array == "torch" else others)
            policy.act(observation, torch.tensor(actions))
            observation, rewards, ended, _, _ = env.step(policy.action_record.actions.numpy())
            told.append([to_numpy(part).tolist() for part in (*observation.values(), rewards)])
            told.append([env.prompt_index.tolist(), env.shaping.schedule.value])
            if mode == AutoresetMode.DISABLED and ended.any():
                observation, _ = env.reset(options={"reset_mask": ended})
        return told

    assert trace(visited=True) == trace(visited=False)


def test_a_sibling_has_random_numbers_of_its_own(make_envs):
    prompts = [str(number) for number in range(100)]
    env = make_envs(prompts=prompts)
    env.reset(seed=0)
    ours, theirs = ([], [])
    sibling = env.sibling(4)
    for _ in range(5):
        env.reset()
        ours.append(env.prompt_index.tolist())
        sibling.reset()
        theirs.append(sibling.prompt_index.tolist())
    assert ours != theirs


def test_a_sibling_stays_on_the_device_of_its_parent(make_envs):
    # The device "meta" has no numbers, but it is another one than the CPU.
    for array, table in (("numpy", "cpu"), ("torch", "meta")):
        env = make_envs(array=array, device="meta")
        assert env.device.type == table
        sibling = env.sibling(2, array="torch")
        assert sibling.device.type == torch.device(sibling.task.device).type == "meta"
    env.reconfigure("DISABLED", "batch", "torch", "cpu")
    assert env.sibling(2, array="torch").device.type == "cpu"


def test_a_sibling_leaves_the_reference_where_it_is(make_envs, make_model):
    reference = make_model()
    env = make_envs(reference=reference)
    moves = []
    reference.to = lambda device: moves.append(torch.device(device)) or reference
    env.sibling(2), env.sibling(2, array="torch")
    env.task.device = "meta"  # as if `reconfigure` had moved the reference since
    env.sibling(2), env.sibling(2, array="torch")
    assert moves and set(moves) == {torch.device("cpu")}


@pytest.mark.parametrize("name", ["reward", "prompts", "max_new_tokens", "kl_coef", "tokenizer"])
@pytest.mark.parametrize("make", [TextGenEnv, TextGenVectorEnv])
def test_arguments_cannot_be_set_afterwards(make, name):
    """They would be ignored: what the environment does with them is done when it is made."""
    env = make(prompts=["a"])
    with pytest.raises(AttributeError, match=rf"{name} cannot be changed .*{name}=\.\.\."):
        setattr(env, name, 5)
    env.reset(seed=0)
