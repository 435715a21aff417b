"""A bound policy's record: taken once, and only of the actions that were stepped."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from textenv import ActionRecord, TextGenEnv
from textenv.arrays import to_numpy
from textenv.lm.log_probs import Sampling

OTHER = r"The action of {} is not the one that the bound policy chose, so its log-probability, and"


@pytest.fixture
def shaped(make_envs, make_model, bound):
    """``shaped(num_envs, ...)``: an environment with a reference, and its bound policy."""

    def make(num_envs=3, **changes):
        env = make_envs(num_envs, reference=make_model(seed=1), **{"kl_coef": 0.5, **changes})
        return env, bound(env, make_model(seed=0))

    return make


def acted(policy, observation, actions):
    """The actions, as if the policy had drawn them."""
    return policy.act(observation, torch.tensor(actions))


def kind(env, actions):
    """Actions as the kind of array that the environment takes."""
    return torch.as_tensor(actions) if env.array == "torch" else np.asarray(actions)


# --- other actions ------------------------------------------------------------------------------


def test_step_scoring_refuses_an_action_that_the_policy_did_not_choose(array, shaped):
    env, policy = shaped(array=array)
    before, _ = env.reset(seed=0)
    chosen = acted(policy, before, [60, 61, 62])
    table = env.unwrapped.state_dict()["table"]
    with pytest.raises(RuntimeError, match=OTHER.format("row 1")):
        env.step(kind(env, [60, 99, 62]))
    for name, column in env.unwrapped.state_dict()["table"].items():
        assert (to_numpy(column) == to_numpy(table[name])).all()
    # Nothing was appended, and the record still holds for the actions that it is of.
    after, _, _, _, infos = env.step(kind(env, chosen))
    assert (after["attention_mask"].sum(1) == before["attention_mask"].sum(1) + 1).all()
    assert infos["_kl"].all()


def test_batch_scoring_refuses_an_action_that_the_policy_did_not_choose(array, shaped, batch):
    env, policy = shaped(array=array, **batch)
    observation, _ = env.reset(seed=0)
    for token in (60, 61, 62, 63, 64):
        acted(policy, observation, [token, token, token])
        sent = kind(env, [token, token, 99 if token == 62 else token])
        if token == 64:
            with pytest.raises(RuntimeError, match=OTHER.format("row 2 at token 2 .*")):
                env.step(sent)
        else:
            observation, *_ = env.step(sent)
    # The next batch knows nothing of it.
    observation, _ = env.reset(seed=0)
    *_, infos = env.step(kind(env, acted(policy, observation, [0, 0, 0])))
    assert np.isfinite(to_numpy(infos["token_kl"])).all()


@pytest.mark.parametrize("scoring", ["step", "batch"])
def test_actions_changed_in_place_after_the_act_are_noticed(scoring, array, shaped):
    env, policy = shaped(array=array, autoreset_mode="DISABLED", scoring=scoring)
    observation, _ = env.reset(seed=0)
    actions = acted(policy, observation, [0, 0, 60])
    sent = actions if array == "torch" else actions.numpy()  # of the same memory
    sent[2] = 0
    with pytest.raises(RuntimeError, match=OTHER.format("row 2.*")):
        env.step(sent)


def test_rows_that_wait_or_are_reset_may_be_sent_any_action(array, driving, shaped):
    env, policy = shaped(array=array, **driving)
    observation, _ = env.reset(seed=0)
    observation, *_ = env.step(kind(env, acted(policy, observation, [60, 0, 60])))
    # Row 1 waits (batch scoring) or is reset by this step (NEXT_STEP).
    acted(policy, observation, [61, 99, 61])
    observation, _, _, _, infos = env.step(kind(env, [61, 98, 61]))
    if not driving:
        assert infos["_kl"].tolist() == [True, False, True] and to_numpy(infos["kl"])[1] == 0
        return
    for _ in range(3):
        acted(policy, observation, [62, 99, 62])
        *_, infos = env.step(kind(env, [62, 97, 62]))
    assert (to_numpy(infos["token_kl"])[1, 1:] == 0).all()


# --- stale and missing records ------------------------------------------------------------------


def test_a_record_is_taken_once(array, driving, shaped):
    env, policy = shaped(array=array, **driving)
    observation, _ = env.reset(seed=0)
    sent = kind(env, acted(policy, observation, [60, 60, 60]))
    observation, *_ = env.step(sent)
    with pytest.raises(
        RuntimeError,
        match=r"The bound policy has not acted since the last step, so its action_record is stale",
    ):
        env.step(sent)
    # It acts, the same actions again, and the episodes go on to the end of their budget.
    for number in range(4):
        acted(policy, observation, [60, 60, 60])
        observation, _, terminated, _, _ = env.step(sent)
        assert terminated.all() == (number == 3)


def test_shaping_without_a_bound_policy_is_refused_at_the_first_step(
    driving, make_small, make_model
):
    env = make_small(reference=make_model(), kl_coef=0.1, **driving)
    env.reset()
    for policy in (None, SimpleNamespace(), SimpleNamespace(action_record=None)):
        env.bind(policy)
        with pytest.raises(
            RuntimeError,
            match=r"KL shaping \(kl_coef > 0\) needs the policy's log-probabilities: call "
            r"env\.unwrapped\.bind\(policy\) once",
        ):
            env.step(np.array([50, 50]))


def test_unbinding_ends_the_comparison(shaped):
    env, policy = shaped(kl_coef=0.0)
    observation, _ = env.reset(seed=0)
    acted(policy, observation, [60, 60, 60])
    env.bind(None)
    *_, infos = env.step(np.array([70, 70, 70]))
    assert "kl" not in infos and infos["_ref_log_prob"].all()


def test_a_policy_that_acted_on_other_rows_is_refused(driving, make_small, make_model):
    env = make_small(reference=make_model(), kl_coef=0.1, **driving)
    env.bind(SimpleNamespace(action_record=ActionRecord(torch.zeros(3), torch.zeros(3))))
    env.reset()
    with pytest.raises(
        RuntimeError,
        match=r"action_record has the shapes \(3,\) and \(3,\), but this environment has 2 rows: "
        r"let the policy act",
    ):
        env.step(np.array([50, 50]))


def test_numpy_log_probs_pay_the_same(array, driving, shaped, play_batch):
    played = []
    for convert in (lambda part: part, lambda part: part.numpy()):
        env, policy = shaped(array=array, **driving)
        observation, _ = env.reset(seed=0)
        played.append([])
        for actions in ([60, 60, 0], [61, 0, 61], [62, 62, 62], [63, 63, 63], [64, 64, 64]):
            acted(policy, observation, actions)
            policy.action_record = ActionRecord(*map(convert, policy.action_record))
            observation, rewards, *_ = env.step(kind(env, actions))
            played[-1].append(to_numpy(rewards))
    np.testing.assert_array_equal(*played)
    assert np.ptp(played[0]) > 0.1


def test_a_record_does_not_survive_a_copy_to_another_process():
    record = ActionRecord(torch.zeros(2), torch.zeros(2))
    assert pickle.loads(pickle.dumps(record)) is None
    policy = SimpleNamespace(action_record=record, sampling=Sampling())
    assert copy.deepcopy(policy).action_record is None


# --- environments of one row --------------------------------------------------------------------


@pytest.fixture
def pair(arguments, make_model, make_envs, policy_of):
    """Arguments with a reference, the native environment of two rows, and a policy for it."""
    arguments = arguments | {"reference": make_model(seed=1), "kl_coef": 0.5}
    native = make_envs(2, **arguments, autoreset_mode=AutoresetMode.SAME_STEP)
    return arguments, native, policy_of(make_model(seed=0), native)


def test_environments_bound_row_by_row_pay_what_the_native_rows_pay(pair, random_actions):
    arguments, native, policy = pair
    sync = SyncVectorEnv(
        [lambda: TextGenEnv(**arguments)] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    native.bind(policy)
    for row, env in enumerate(sync.envs):
        env.unwrapped.bind(policy, row=row)
    observation, _ = native.reset(seed=3)
    sync.reset(seed=3)
    shaped_steps = 0
    for actions in random_actions(1, 30, rows=2):
        sent = acted(policy, observation, actions).numpy()
        observation, wanted, ended, _, _ = native.step(sent)
        _, rewards, terminated, _, _ = sync.step(sent)
        np.testing.assert_allclose(rewards, wanted, rtol=0, atol=1e-4)
        assert terminated.tolist() == ended.tolist()
        shaped_steps += int((wanted[~ended] != 0).sum())
    assert shaped_steps > 20


def test_an_environment_of_one_row_needs_to_know_its_entry(pair):
    arguments, _, policy = pair
    sync = SyncVectorEnv([lambda: TextGenEnv(**arguments)] * 2)
    sync.call("bind", policy)
    observation, _ = sync.reset(seed=3)
    with pytest.raises(RuntimeError, match=r"For several environments of one row, .* its own ent"):
        sync.step(acted(policy, observation, [60, 61]).numpy())


@pytest.mark.filterwarnings("ignore:.*ERROR")  # Gymnasium reports what it raises as warnings, too
def test_a_policy_sent_to_another_process_is_refused_by_the_cause(pair):
    arguments, _, policy = pair
    envs = AsyncVectorEnv([lambda: TextGenEnv(**arguments)] * 2)
    try:
        observation, _ = envs.reset(seed=3)
        sent = acted(policy, observation, [60, 61]).numpy()
        record = ActionRecord(torch.tensor(sent), policy.action_record.log_probs)
        envs.call("bind", SimpleNamespace(action_record=record, sampling=Sampling()))
        with pytest.raises(RuntimeError, match=r"sent to another process, as AsyncVectorEnv and"):
            envs.step(sent)
    finally:
        envs.close(terminate=True)


def test_a_policy_that_is_bound_within_a_batch_is_refused(make_envs, make_model, bound, batch):
    """Its records would be taken for those of the first steps."""
    env = make_envs(2, reference=make_model(seed=1), max_new_tokens=3, **batch)
    observation, _ = env.reset(seed=0)
    observation, *_ = env.step(np.array([60, 61]))
    policy = bound(env, make_model(seed=0))
    observation, *_ = env.step(kind(env, acted(policy, observation, [62, 63])))
    with pytest.raises(RuntimeError, match="bound for 2 of the 3 steps"):
        env.step(kind(env, acted(policy, observation, [62, 63])))
