"""On an accelerator the decoder goes by the environment's own count of episodes and steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from textenv.arrays import Origin
from textenv.lm.decoder import Decoder

LENGTH = 16


class OnAccelerator(torch.Tensor):
    """A tensor that says it lies on an accelerator."""

    is_cpu = False


class Tokens(OnAccelerator):
    """To copy them to the host makes it wait, which is counted."""

    waits = 0

    def cpu(self):
        Tokens.waits += 1
        return super().cpu()


def has_new_rows(before, now):
    steps = -1 if before is None else now.steps - before.steps
    return steps not in (0, 1) or (now.episodes != before.episodes).any()


@pytest.fixture
def read(full_forward):
    """Let a decoder read token rows that lie on an accelerator, and compare its logits."""

    def check(decoder, model, input_ids, lengths, origin):
        believed = input_ids.clone().as_subclass(Tokens)
        Tokens.waits, may_wait = 0, has_new_rows(decoder.origin, origin)
        logits, _ = decoder.next(believed, lengths.clone(), origin)
        assert Tokens.waits == may_wait  # once, for the tokens of new rows
        wanted = full_forward(model, input_ids, lengths)
        torch.testing.assert_close(logits.as_subclass(torch.Tensor), wanted, rtol=1e-4, atol=1e-4)

    return check


@pytest.fixture
def read_observation(read):
    """The same for an observation of the environment in torch mode; nothing else is said of it."""

    def check(decoder, model, observation):
        lengths = observation["attention_mask"].sum(1, dtype=torch.int64)
        read(decoder, model, observation["input_ids"], lengths, observation.origin)

    return check


def test_rows_that_begin_grow_and_wait_have_the_logits_of_the_full_forward(
    make_model, make_rows, count_passes, read
):
    model = make_model()
    decoder = Decoder(model, num_rows=3, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8, 7], [3])
    shapes = count_passes(model)
    episodes, steps = np.array([1, 2, 3]), 0

    def check(decoder=decoder):
        read(decoder, model, rows.input_ids, rows.lengths, Origin(episodes.copy(), steps))
        fed = shapes[:-3]  # the last three are the plain passes that it is compared with
        shapes.clear()
        return fed

    assert check() == [(3, 3)]
    rows.grow(0, 1, 2)
    steps += 1
    assert check() == [(3, 1)]
    rows.grow(0, 2)  # row 1 waits: it is fed its last token again
    steps += 1
    assert check() == [(3, 1)]
    rows.begin(1, [11, 12, 13, 14, 15])
    episodes[1] = 4
    rows.grow(0, 2)
    steps += 1
    assert check() == [(2, 1), (1, 5)]
    assert check() == []  # the same observation again
    rows.begin(2, [7, 7])  # a reset between two steps
    episodes[2] = 5
    assert check() == [(1, 2)]
    for _ in range(LENGTH):  # nothing grows, and nothing runs out of the table
        steps += 1
        assert check() == [(3, 1)]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_nobody_has_to_say_where_episodes_begin(
    architecture, mode, make_envs, make_model, random_actions, read_observation
):
    model = make_model(architecture)
    env = make_envs(array="torch", autoreset_mode=mode)
    decoder = Decoder(model, env.num_envs, env.max_length)
    observation, _ = env.reset(seed=0)
    ended_at_all = 0
    for actions in random_actions(3, 16):
        read_observation(decoder, model, observation)
        observation, _, ended, _, _ = env.step(torch.tensor(actions))
        ended_at_all += int(ended.sum())
        if mode.name == "DISABLED" and ended.any():
            observation, _ = env.reset(options={"reset_mask": ended})
    assert ended_at_all > 8


def test_batch_scoring_lets_rows_wait(make_envs, make_model, batch, read_observation):
    model = make_model()
    env = make_envs(array="torch", **batch)
    decoder = Decoder(model, env.num_envs, env.max_length)
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        for step in range(5):
            read_observation(decoder, model, observation)
            actions = torch.tensor([0, 60, 0 if step == 2 else 61, 62])
            observation, *_ = env.step(actions)


def test_a_skipped_observation_is_read_anew(make_envs, make_model, read_observation, count_passes):
    model = make_model()
    env = make_envs(array="torch")
    decoder = Decoder(model, env.num_envs, env.max_length)
    shapes = count_passes(model)
    first, _ = env.reset(seed=0)
    read_observation(decoder, model, first)
    env.step(torch.full((4,), 60))
    third, *_ = env.step(torch.full((4,), 61))
    shapes.clear()
    read_observation(decoder, model, third)
    assert shapes[0][1] > 1  # whole rows, and not their last tokens
    shapes.clear()
    read_observation(decoder, model, first)  # one step back is no step on either
    assert shapes[0][1] > 1


def test_an_observation_of_another_environment_is_read_anew(
    make_envs, make_model, read_observation
):
    model = make_model()
    one, other = (make_envs(array="torch", prompts=[text]) for text in ("uvw", "xyz"))
    decoder = Decoder(model, one.num_envs, one.max_length)
    observations = [env.reset(seed=0)[0] for env in (one, other)]
    # In turn, so that each time as many steps have been taken as before, or one more.
    for number in range(4):
        read_observation(decoder, model, observations[number % 2])
        if number % 2:
            actions = torch.arange(60, 64) + number
            observations = [env.step(actions + i)[0] for i, env in enumerate((one, other))]


def test_without_an_origin_tokens_are_compared(make_model, make_rows):
    decoder = Decoder(make_model(), num_rows=2, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8])
    Tokens.waits = 0
    decoder.next(rows.input_ids.as_subclass(Tokens), rows.lengths)
    assert Tokens.waits > 0


def test_each_change_between_origins_and_comparison_reads_all_rows_anew(
    make_model, make_rows, read, assert_same_as_full_forward
):
    model = make_model()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    told, compared = make_rows([5, 6], [9, 8]), make_rows([8, 8, 8], [3])
    for step in range(3):  # each by itself, the rows of either kind only grow by one token
        read(decoder, model, told.input_ids, told.lengths, Origin(np.array([1, 2]), step))
        assert_same_as_full_forward(decoder, model, compared)
        told.grow(0, 1)
        compared.grow(0, 1)


def test_on_the_cpu_tokens_are_compared_whatever_the_origin_says(
    make_model, make_rows, full_forward
):
    model = make_model()
    decoder = Decoder(model, num_rows=2, max_length=LENGTH)
    rows = make_rows([5, 6], [9, 8])
    origin = Origin(np.array([1, 2]), 0)
    for _ in range(2):
        logits, _ = decoder.next(rows.input_ids, rows.lengths, origin)
        wanted = full_forward(model, rows.input_ids, rows.lengths)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
        rows.begin(0, [8, 7, 6])  # which the origin does not tell


@pytest.mark.parametrize("mode_name", ["NEXT_STEP", "SAME_STEP"])
def test_the_environment_tells_its_reference_where_episodes_begin(
    mode_name, make_envs, make_model, random_actions, monkeypatch
):
    environments = [  # made before, since a model is tried when an environment is made
        make_envs(array="torch", autoreset_mode=mode_name, reference=make_model()) for _ in "abc"
    ]

    def reference_log_probs(kind):
        env = environments.pop()
        env._table.tokens = env._table.tokens.as_subclass(kind)
        env.reset(seed=4)
        told = []
        for actions in random_actions(5, 25):
            *_, infos = env.step(torch.tensor(actions))
            of_ended = infos.get("final_info", infos)
            told.append(of_ended.get("ref_log_prob", infos["ref_log_prob"]))
        return torch.stack(told).as_subclass(torch.Tensor)

    compared = reference_log_probs(torch.Tensor)
    monkeypatch.setattr(
        Decoder, "_changes_by_comparison", lambda *_: pytest.fail("tokens were compared")
    )
    torch.testing.assert_close(reference_log_probs(OnAccelerator), compared, rtol=0, atol=1e-4)
    with pytest.raises(pytest.fail.Exception):
        reference_log_probs(torch.Tensor)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("kind", ["step", "batch"])
def test_replies_are_read_by_the_lengths_that_the_host_knows(
    kind, captured, mode, make_envs, make_model, batch, read_observation
):
    """A row grows by a token and its reply, while others wait, go on, or begin anew."""
    if kind == "batch" and mode.name != "DISABLED":
        pytest.skip("rows wait in this mode alone")
    replies = ["", "ab", "cdefg", None]
    talk = {
        "respond": lambda e: replies[(sum(e.turns[-1].ids) + len(e.turns)) % 4],
        "max_turns": 3, "max_turn_tokens": 2, "max_reply_tokens": 4,
    }  # fmt: skip
    model = make_model()
    driving = batch if kind == "batch" else {"autoreset_mode": mode}
    env = make_envs(array="torch", **talk, **driving)
    decoder = Decoder(model, env.num_envs, env.max_length, captured=captured)
    observation, _ = env.reset(seed=0)
    random, grown = np.random.default_rng(1), 0
    for _ in range(24):
        read_observation(decoder, model, observation)
        before = observation["attention_mask"].sum(1)
        actions = torch.tensor(random.choice([0, 50, 60, 61], env.num_envs))
        observation, _, ended, _, _ = env.step(actions)
        grown += int((observation["attention_mask"].sum(1) - before > 1).sum())
        if mode.name == "DISABLED" and ended.any():
            some = {} if kind == "batch" else {"options": {"reset_mask": ended}}
            observation, _ = env.reset(**some)
    assert grown > 8
