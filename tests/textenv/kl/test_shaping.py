"""What each token costs for leaving the reference: r = score − β·(log π − log π_ref)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from textenv.arrays import to_numpy
from textenv.kl import shaping
from textenv.kl.shaping import shaped_reward
from textenv.lm.log_probs import Sampling

# So many that random responses are of all lengths.
STOPS = list(range(60))


LAST = [0.0, 2.0]
LOG_PROBS, REFERENCE_LOG_PROBS = [-1.0, -0.5], [-1.5, -0.25]


@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("kl_coef", "wanted"),
    [
        (0.0, [0.0, 2.0]),
        (0.1, [-0.05, 2.025]),  # 0 - 0.1 · 0.5 and 2 - 0.1 · (-0.25)
        ([0.1, 2.0], [-0.05, 2.5]),  # each row its own
    ],
    ids=str,
)
def test_the_shaped_reward_of_one_step_by_hand(convert, kl_coef, wanted):
    shaped = shaped_reward(*map(convert, (LAST, LOG_PROBS, REFERENCE_LOG_PROBS, kl_coef)))
    assert type(shaped) is type(convert(LAST)) and shaped.shape == (2,)
    assert shaped.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_the_shaped_rewards_of_whole_responses_by_hand(convert):
    terminal = [[0.0, 3.0], [1.0, 0.0]]  # the second response has one token
    log_probs, reference_log_probs = [[-1.0, -2.0], [-0.5, 0.0]], [[-0.5, -3.0], [-2.5, 0.0]]
    kl_coef = [[0.1], [0.5]]
    shaped = shaped_reward(*map(convert, (terminal, log_probs, reference_log_probs, kl_coef)))
    assert type(shaped) is type(convert(terminal))
    assert shaped.tolist() == [pytest.approx([0.05, 2.9]), pytest.approx([0.0, 0.0])]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_step_and_batch_scoring_pay_each_token_the_same(
    architecture, array, make_envs, make_model, batch, bound, play_batch
):
    sampling = Sampling(temperature=1.3, banned_tokens=(70, 71))
    model, reference = make_model(architecture, seed=0), make_model(architecture, seed=1)
    arguments = {
        "reference": reference,
        "kl_coef": 0.3,
        "stop": STOPS,
        "no_stop_penalty": 2.0,
        "array": array,
    }
    batch = make_envs(6, **arguments, **batch)
    actions, returns, infos = play_batch(batch, bound(batch, model, sampling))
    length = infos["response_length"]
    assert len(set(length.tolist())) > 2  # rows end at different steps

    step = make_envs(6, **arguments)
    policy = bound(step, model, sampling)
    observation, _ = step.reset(seed=0)
    running = np.ones(6, bool)
    for t, chosen in enumerate(actions):
        policy.act(observation, chosen)
        observation, rewards, terminated, _, step_infos = step.step(chosen)
        for row in np.flatnonzero(running):
            for ours, theirs in (
                (infos["token_rewards"][row, t], rewards[row]),
                (infos["token_kl"][row, t], step_infos["kl"][row]),
                (infos["ref_log_probs"][row, t], step_infos["ref_log_prob"][row]),
            ):
                assert float(ours) == pytest.approx(float(theirs), abs=1e-4)
            assert bool(terminated[row]) == (t == length[row] - 1)
            if terminated[row]:
                for key in ("response", "response_length", "score", "finish_reason"):
                    assert infos[key][row] == step_infos[key][row]
        running &= ~to_numpy(terminated)
    assert not running.any()
    tokens = to_numpy(infos["token_rewards"])
    np.testing.assert_allclose(to_numpy(returns), tokens.sum(1), atol=1e-4)
    off_the_mask = np.arange(tokens.shape[1]) >= length[:, None]
    for key in ("token_rewards", "token_kl", "ref_log_probs"):
        assert (to_numpy(infos[key])[off_the_mask] == 0).all()


def test_the_kl_is_that_of_both_models_own_forward(make_envs, make_model, batch, bound, play_batch):
    sampling = Sampling(temperature=0.8)
    models = make_model(seed=0), make_model(seed=1)
    env = make_envs(1, reference=models[1], kl_coef=0.3, **batch)
    actions, _, infos = play_batch(env, bound(env, models[0], sampling))
    prompt = env.prompts[env.prompt_index[0]].ids
    response = actions[: infos["response_length"][0], 0]
    row = torch.cat([torch.tensor(prompt), response])[None]
    with torch.no_grad():
        log_p, log_q = (
            (model(input_ids=row).logits[0, len(prompt) - 1 : -1] / 0.8).log_softmax(-1)
            for model in models
        )
    p_taken, q_taken = (part.gather(1, response[:, None])[:, 0] for part in (log_p, log_q))
    wanted = p_taken - q_taken
    np.testing.assert_allclose(infos["token_kl"][0], wanted, rtol=1e-3, atol=1e-3)
    rewards = -0.3 * wanted
    rewards[-1] += infos["score"][0]
    np.testing.assert_allclose(infos["token_rewards"][0], rewards, rtol=1e-3, atol=1e-3)


def test_a_policy_that_is_the_reference_has_no_kl(make_envs, make_model, batch, bound, play_batch):
    model = make_model()
    step = make_envs(reference=model, kl_coef=1.0, stop=STOPS)
    policy = bound(step, model, Sampling(0.7))
    observation, _ = step.reset(seed=0)
    for _ in range(12):
        observation, _, _, _, infos = step.step(policy.act(observation).numpy())
        assert (infos["kl"] == 0).all()
    batch = make_envs(reference=model, kl_coef=1.0, stop=STOPS, **batch)
    _, _, infos = play_batch(batch, bound(batch, model, Sampling(0.7)))
    assert np.abs(infos["token_kl"]).max() < 1e-5


def test_a_coefficient_of_0_reports_and_shapes_nothing(driving, make_envs, make_model, bound):
    model, reference = make_model(seed=0), make_model(seed=1)
    env = make_envs(2, reference=reference, kl_coef=0, **driving)
    policy = bound(env, model)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        chosen = policy.act(observation).clamp(min=60)
        policy.act(observation, chosen)
        observation, rewards, _, _, infos = env.step(chosen.numpy())
        if not driving:
            assert (infos["kl"] != 0).all() and (infos["ref_log_prob"] < 0).all()
    assert rewards.tolist() == infos["score"].tolist()
    if driving:
        assert (infos["token_kl"] != 0).all() and (infos["ref_log_probs"] < 0).all()


def test_a_reference_alone_reports_its_log_probs_in_batch_scoring(make_envs, make_model, batch):
    env = make_envs(2, reference=make_model(), **batch)
    env.reset(seed=0)
    for _ in range(5):
        *_, infos = env.step(np.array([60, 61]))
    assert infos["ref_log_probs"].shape == (2, 5) and "token_kl" not in infos


def test_a_banned_action_of_a_waiting_row_does_no_harm(driving, make_envs, make_model, bound):
    # Its log-prob is -inf for the policy and the reference, and -inf · 0 is nan.
    env = make_envs(2, reference=make_model(seed=1), kl_coef=0.5, **driving)
    policy = bound(env, make_model(seed=0), Sampling(banned_tokens=(99,)))
    observation, _ = env.reset(seed=0)
    total = np.zeros(2)
    for actions in ([60, 0], [60, 99], [60, 60], [60, 60], [60, 60]):
        policy.act(observation, torch.tensor(actions))
        observation, rewards, *_, infos = env.step(np.array(actions))
        total += rewards
    assert np.isfinite(total).all()
    assert np.isfinite(infos["token_kl" if driving else "kl"]).all()


def test_the_reference_has_no_dropout_and_its_weights_go_on_learning(make_envs, make_model):
    reference = make_model("gpt2").train()
    env = make_envs(reference=reference)
    assert not env.shaping.reference.training
    assert all(parameter.requires_grad for parameter in reference.parameters())


def test_the_prompt_of_a_group_is_prefilled_once(make_envs, make_model, count_passes):
    reference = make_model()
    shapes = count_passes(reference)
    env = make_envs(6, group_size=3, reference=reference)
    shapes.clear()  # the reference was tried, to see whether it is supported
    env.reset(seed=1)
    assert len(set(env.prompt_index)) == 2
    env.step(np.full(6, 60))
    env.step(np.full(6, 60))
    assert [rows for rows, _ in shapes] == [2, 6]


def test_batch_scoring_asks_the_reference_once(
    make_envs, make_model, batch, random_actions, count_passes
):
    reference = make_model()
    env = make_envs(reference=reference, **batch)
    passes = count_passes(reference)
    env.reset(seed=0)
    for actions in random_actions(0, 5, stop=0.0):
        env.step(actions)
    assert len(passes) == 1


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 5, 6])
def test_many_rows_are_scored_in_several_passes_that_change_nothing(
    rows_at_once, make_envs, make_model, batch, bound, play_batch, count_passes, monkeypatch
):
    reference = make_model(seed=1)
    env = make_envs(6, reference=reference, kl_coef=0.5, stop=STOPS, **batch)
    policy = bound(env, make_model(seed=0))
    passes = count_passes(reference)
    actions, returns, at_once = play_batch(env, policy)
    assert [rows for rows, _ in passes] == [6]
    passes.clear()

    # Just enough tokens for so many rows, and not for one more.
    monkeypatch.setattr(shaping, "TOKENS_AT_ONCE", (rows_at_once + 1) * env.max_length - 1)
    policy.generator.manual_seed(0)
    again, returns_again, in_parts = play_batch(env, policy)
    rows = [min(rows_at_once, 6 - start) for start in range(0, 6, rows_at_once)]
    assert [number for number, _ in passes] == rows
    assert torch.equal(actions, again)
    for key in ("ref_log_probs", "token_kl", "token_rewards"):
        np.testing.assert_allclose(in_parts[key], at_once[key], rtol=0, atol=1e-4)
    np.testing.assert_allclose(returns_again, returns, rtol=0, atol=1e-4)


def test_a_row_longer_than_one_pass_may_be_is_scored_by_itself(
    make_envs, make_model, batch, count_passes, monkeypatch
):
    monkeypatch.setattr(shaping, "TOKENS_AT_ONCE", 1)
    reference = make_model()
    env = make_envs(3, reference=reference, **batch)
    passes = count_passes(reference)
    env.reset(seed=0)
    env.step(np.zeros(3, np.int64))
    assert [rows for rows, _ in passes] == [1, 1, 1]


def test_a_reference_that_is_loaded_has_the_precision_asked_for(make_small, tmp_path, make_model):
    make_model().save_pretrained(tmp_path)
    for dtype in ("float32", "bfloat16", "float16"):
        env = make_small(reference=str(tmp_path), reference_dtype=dtype)
        assert env.shaping.reference.dtype == getattr(torch, dtype)
        env.reset(seed=0)
        *_, infos = env.step(np.array([60, 61]))
        assert infos["ref_log_prob"].dtype == np.float32 and (infos["ref_log_prob"] < 0).all()
