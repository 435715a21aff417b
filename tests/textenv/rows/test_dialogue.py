"""Dialogues of random actions and replies, beside a model of them in plain lists."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from textenv import Reply, RespondError, TextGenEnv, TextGenVectorEnv
from textenv.arrays import to_numpy

PROMPTS = ["a", "bcd", "ef"]
END, BANG = 0, 2  # the end of sequence, and "!", a stop string
BATCH = {"autoreset_mode": AutoresetMode.DISABLED, "scoring": "batch"}


def respond(episode):
    """What it replies depends on the whole dialogue, so that a wrong one is seen."""
    turn, number = episode.turns[-1], len(episode.turns)
    said = [turn.reply for turn in episode.turns[:-1]]
    kind = (sum(map(ord, turn.text)) + 3 * number + len("".join(said)) + len(turn.ids)) % 7
    if kind == 0:
        return None
    if kind == 1:
        return ""
    if kind == 2:
        return Reply("ok", reward=0.5 * number)
    if kind == 3:
        return Reply("bye", reward=-1, end=True)
    return "ab" * kind


def score(episodes):
    return [len(e.response_ids) + 0.1 * len(e.turns) + 0.01 * len(e.response) for e in episodes]


@dataclass
class Row:
    """An episode in lists."""

    ids: list[int]
    own: list[int] = field(default_factory=list)
    turns: list[dict] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    reason: str = ""
    rewards: list[float] = field(default_factory=list)


class Lists:
    """The rules of a dialogue, one token at a time."""

    def __init__(self, tokenizer, max_new_tokens, max_turns, max_turn_tokens, max_reply_tokens):
        self.tokenizer, self.budget, self.max_turns = tokenizer, max_new_tokens, max_turns
        self.of_turn, self.of_reply = max_turn_tokens, max_reply_tokens

    def step(self, row: Row, action: int) -> None:
        row.own.append(len(row.ids))
        row.ids.append(action)
        row.turn.append(action)
        row.rewards.append(0.0)
        stopped = action in (END, BANG)
        spent = len(row.own) == self.budget
        if not (stopped or spent or len(row.turn) == self.of_turn):
            return
        text = self.tokenizer.decode(row.turn, skip_special_tokens=True).split("!")[0]
        row.turns.append({"text": text, "ids": row.turn, "stopped": stopped, "reply": ""})
        reply = respond(Seen(row))
        reply = Reply(end=True) if reply is None else reply
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        row.rewards[-1] += reply.reward
        row.turns[-1]["reply"], row.turn = reply.text, []
        if reply.end:
            row.reason = "end"
        elif len(row.turns) == self.max_turns:
            row.reason = "turns"
        elif spent:
            row.reason = "length"
        else:
            ids = self.tokenizer(reply.text)["input_ids"][: self.of_reply]
            row.ids += ids
            row.turns[-1]["reply"] = self.tokenizer.decode(ids)  # as it is read


class Seen:
    """What `respond` reads of an episode."""

    def __init__(self, row: Row):
        self.turns = [type("Turn", (), turn) for turn in row.turns]


def settings_of(draw):
    budget = draw(st.integers(1, 9))
    return {
        "max_new_tokens": budget,
        "max_turns": draw(st.integers(1, 4)),
        "max_turn_tokens": draw(st.one_of(st.none(), st.integers(1, budget))),
        "max_reply_tokens": draw(st.integers(1, 9)),
    }


@st.composite
def dialogues(draw):
    given = settings_of(draw)
    columns = st.lists(st.sampled_from([END, BANG, 50, 60, 61, 70]), min_size=3, max_size=3)
    actions = draw(st.lists(columns, min_size=given["max_new_tokens"], max_size=9))
    return given, np.array(actions)


def arguments(tokenizer, **changes):
    return {
        "tokenizer": tokenizer, "prompts": PROMPTS, "respond": respond, "stop": "!",
        "reward": score, "no_stop_penalty": 0.25, **changes,
    }  # fmt: skip


@settings(max_examples=100, deadline=None, derandomize=True)
@given(dialogue=dialogues())
def test_random_dialogues_are_those_of_a_model_in_lists(dialogue, tokenizer):
    given, actions = dialogue
    lists = Lists(tokenizer, **given)
    env = TextGenVectorEnv(3, **arguments(tokenizer, **given), autoreset_mode="DISABLED")
    batch = TextGenVectorEnv(3, **arguments(tokenizer, **given), **BATCH, array="torch")
    start = {"prompt_index": np.arange(3)}
    env.reset(seed=0, options=start)
    batch.reset(seed=0, options=start)
    rows = [Row(list(prompt.ids)) for prompt in env.prompts]
    returned = np.zeros(3)
    for step in actions:
        going = [row for row in rows if not row.reason]
        if not going:
            break
        for row, action in zip(rows, step, strict=True):
            if not row.reason:
                lists.step(row, int(action))
        if env.running.all():
            observation, rewards, terminated, _, infos = env.step(step)
        else:  # rows that have ended wait in batch scoring alone
            observation = None
        of_batch, batch_rewards, batch_terminated, _, batch_infos = batch.step(
            torch.as_tensor(step)
        )
        check_rows(of_batch, rows)
        if observation is None:
            continue
        check_rows(observation, rows)
        returned += rewards
        for number, row in enumerate(rows):
            assert terminated[number] == bool(row.reason)
            assert ("_reply" in infos and infos["_reply"][number]) == (not row.turn)
            if not row.turn:
                assert infos["reply"][number] == row.turns[-1]["reply"]
            paid = row.rewards[-1]
            if row.reason:
                paid += value(row) - 0.25 * (row.reason == "length")
                assert infos["finish_reason"][number] == row.reason
                assert infos["score"][number] == pytest.approx(value(row) + sum(row.rewards))
                assert infos["turns"][number] == len(row.turns)
                assert infos["response_length"][number] == len(row.own)
                replied = len(row.ids) - len(row.own) - len(env.prompts[number].ids)
                assert infos["reply_length"][number] == replied
            assert rewards[number] == pytest.approx(paid)
    if "token_rewards" in batch_infos:
        assert batch_terminated.all() and all(row.reason for row in rows)
        for number, row in enumerate(rows):
            wanted = np.array(row.rewards)
            wanted[-1] += value(row) - 0.25 * (row.reason == "length")
            found = batch_infos["token_rewards"][number].numpy()
            np.testing.assert_allclose(found[: len(wanted)], wanted, atol=1e-5)
            assert (found[len(wanted) :] == 0).all()
            assert float(batch_rewards[number]) == pytest.approx(wanted.sum(), abs=1e-5)


def value(row: Row) -> float:
    text = "\n".join(turn["text"] for turn in row.turns)
    return len(row.own) + 0.1 * len(row.turns) + 0.01 * len(text)


def check_rows(observation, rows) -> None:
    for number, row in enumerate(rows):
        length = len(row.ids)
        assert to_numpy(observation["input_ids"][number])[:length].tolist() == row.ids
        assert int(observation["attention_mask"][number].sum()) == length
        assert np.flatnonzero(to_numpy(observation["own_tokens"][number])).tolist() == row.own
        assert (to_numpy(observation["input_ids"][number])[length:] == 0).all()


# --- the same in all environments ---------------------------------------------------------------


def play(env, actions, array="numpy"):
    """All that the steps return, where rows that end begin again by themselves."""
    found = []
    for step in actions:
        step = torch.as_tensor(step) if array == "torch" else step
        found.append(env.step(step))
    return found


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_each_row_is_the_single_environment(mode, array, tokenizer):
    given = {"max_new_tokens": 6, "max_turns": 3, "max_turn_tokens": 3, "max_reply_tokens": 5}
    env = TextGenVectorEnv(3, **arguments(tokenizer, **given), autoreset_mode=mode, array=array)
    singles = [TextGenEnv(**arguments(tokenizer, **given)) for _ in range(3)]
    first, _ = env.reset(seed=5)
    for row, single in enumerate(singles):
        observation, _ = single.reset(seed=5 + row)
        for key in first:
            np.testing.assert_array_equal(first[key][row], observation[key])
    actions = np.random.default_rng(0).choice([END, BANG, 50, 60, 61], (40, 3))
    waits = np.zeros(3, bool)
    for observation, rewards, terminated, _, _ in (results := iter(play(env, actions, array))):
        step = actions[0]
        actions = actions[1:]
        for row, single in enumerate(singles):
            if waits[row]:  # this step only resets
                own, _ = single.reset()
                ended = False
            else:
                own, reward, ended, _, _ = single.step(step[row])
                assert float(rewards[row]) == pytest.approx(reward)
                assert bool(terminated[row]) == ended
                if ended and mode == "SAME_STEP":
                    own, _ = single.reset()
            for key in own:
                np.testing.assert_array_equal(observation[key][row], own[key])
            waits[row] = ended and mode == "NEXT_STEP"
    assert next(results, None) is None


def test_nothing_changes_without_a_dialogue(tokenizer, make_small):
    env = make_small()
    observation, _ = env.reset(seed=0)
    assert "own_tokens" not in observation and env.max_length == 9
    _, _, _, _, infos = env.step(np.array([END, END]))
    assert not {"reply", "turn_reward", "turns", "score/turns"} & infos.keys()


def test_it_goes_on_from_its_state(tokenizer):
    given = {"max_new_tokens": 6, "max_turns": 3, "max_turn_tokens": 3, "respond": Counter}
    make = lambda: TextGenVectorEnv(3, **arguments(tokenizer, **given))  # noqa: E731
    env, other = make(), make()
    env.reset(seed=1)
    actions = np.random.default_rng(1).choice([END, BANG, 50, 60], (30, 3))
    play(env, actions[:7])
    other.reset(seed=9)
    other.load_state_dict(env.state_dict())
    for here, there in zip(play(env, actions[7:]), play(other, actions[7:]), strict=True):
        for key in here[0]:
            np.testing.assert_array_equal(here[0][key], there[0][key])
        np.testing.assert_array_equal(here[1], there[1])
        assert {k: list(map(str, v)) for k, v in here[4].items()} == {
            k: list(map(str, v)) for k, v in there[4].items()
        }


class Counter:
    """A tool with a state and a chance of its own."""

    def reset(self, episode, seed):
        self.number, self.seed = 0, seed

    def __call__(self, episode):
        self.number += 1
        return f"{self.number}:{self.seed % 100}"

    def state_dict(self):
        return vars(self)

    def load_state_dict(self, state):
        vars(self).update(state)


def test_rows_have_objects_of_their_own_and_groups_one_chance(tokenizer):
    given = {"max_new_tokens": 4, "max_turns": 3, "max_turn_tokens": 1, "respond": Counter}
    env = TextGenVectorEnv(4, **arguments(tokenizer, **given), group_size=2, **BATCH)

    def replies(seed=None):
        env.reset(seed=seed)
        return [env.step(np.full(4, 50))[4]["reply"].tolist() for _ in range(2)]

    first, second = replies(seed=3), replies()
    for number, row in enumerate(first, 1):
        assert [reply.split(":")[0] for reply in row] == [str(number)] * 4
        seeds = [reply.split(":")[1] for reply in row]
        assert seeds[0] == seeds[1] and seeds[2] == seeds[3] and seeds[0] != seeds[2]
    assert second != first and replies(seed=3) == first


def test_a_batch_of_dialogues_is_asked_once_a_step(tokenizer):
    calls = []

    def of_all(episodes):
        calls.append([episode.turns[-1].text for episode in episodes])
        return ["x"] * len(episodes)

    given = {"max_new_tokens": 4, "max_turns": 3, "respond": of_all}
    env = TextGenVectorEnv(3, **arguments(tokenizer, **given))
    env.reset(options={"prompt_index": np.arange(3)})
    for actions in ([END, 50, 50], [50, END, END]):
        env.step(np.array(actions))
    assert calls == [[""], ["Q", "Q"]]


def test_infos_are_numbers_where_texts_are_off(tokenizer):
    given = {"max_new_tokens": 3, "max_turns": 2, "max_turn_tokens": 1}
    env = TextGenVectorEnv(3, **arguments(tokenizer, **given), text_info=False)
    _, first = env.reset(seed=0)
    _, _, _, _, infos = env.step(np.full(3, 50))
    assert infos.keys() == first.keys() and "reply" not in infos
    numbers = {"turn_reward", "turns", "reply_length", "turns_cut", "replies_cut", "score_turns"}
    assert numbers <= infos.keys()
    assert all(column.dtype.kind in "fib" for column in infos.values())


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (3, r"answered 3, a int, in row 0, turn 1, 'Q'"),
        (Reply(b"x"), r"answered Reply\(.*b'x'"),
        (Reply("x", reward=float("nan")), r"gave the reward nan in row 0, turn 1, 'Q'"),
        (Reply("x", reward="much"), r"gave the reward 'much'"),
        ("a<end>b", r"cannot be appended in row 0, turn 1: .* special token '<end>'"),
        (KeyError("secret"), r"raised KeyError: 'secret' in row 0, turn 1, 'Q'"),
    ],
    ids=["a number", "bytes", "nan", "a word", "a special token", "an error"],
)
def test_what_is_no_reply_is_a_sentence(answer, sentence, tokenizer):
    def reply(episode):
        if isinstance(answer, Exception):
            raise answer
        return answer

    given = {"max_new_tokens": 4, "max_turns": 3, "max_turn_tokens": 1, "respond": reply}
    env = TextGenEnv(**arguments(tokenizer, **given))
    env.reset(seed=0)
    with pytest.raises(RespondError, match=sentence):
        env.step(50)
    with pytest.raises(Exception, match="have ended and nothing has reset them"):
        env.step(50)


def test_a_dialogue_that_failed_has_to_be_reset(tokenizer):
    answers = iter(["fine", 3, "fine"])
    given = {"max_new_tokens": 4, "max_turns": 3, "max_turn_tokens": 1}
    given["respond"] = lambda episode: next(answers)
    env = TextGenEnv(**arguments(tokenizer, **given))
    env.reset(seed=0)
    env.step(50)
    with pytest.raises(RespondError):
        env.step(50)
    with pytest.raises(Exception, match="have ended and nothing has reset them"):
        env.step(50)
    env.reset()
    assert env.step(50)[2] is False


def test_an_episode_cannot_be_changed(tokenizer):
    def changes(episode):
        episode.turns[-1].ids[0] = 3
        return "x"

    given = {"max_new_tokens": 4, "max_turns": 3, "max_turn_tokens": 1, "respond": changes}
    env = TextGenEnv(**arguments(tokenizer, **given))
    env.reset(seed=0)
    with pytest.raises(RespondError, match="read-only"):
        env.step(50)


def test_one_that_sleeps_is_named(tokenizer):
    import time

    given = {"max_new_tokens": 4, "max_turns": 3, "max_turn_tokens": 1, "reward_timeout": 0.05}
    given["respond"] = lambda episode: time.sleep(2)
    env = TextGenEnv(**arguments(tokenizer, **given))
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"has not answered within reward_timeout=0\.05 s"):
        env.step(50)
    with pytest.raises(Exception, match="have ended and nothing has reset them"):
        env.step(50)


class WithoutReset:
    def __call__(self, episode):
        return "x"


class WithoutCall:
    def reset(self, episode):
        pass


class WithArguments(WithoutReset):
    def __init__(self, secret):
        pass

    def reset(self, episode):
        pass


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"respond": WithoutReset}, "is a class without reset"),
        ({"respond": WithoutCall}, "is a class without __call__"),
        ({"respond": WithArguments}, "is a class that needs secret to be made"),
        ({"respond": "hint"}, "respond='hint' is unknown"),
        ({"respond": "nowhere:hint"}, "cannot be imported"),
        ({"respond": 3}, "respond=3 is a int"),
        ({"respond": lambda a, b: ""}, "it takes one"),
        ({"respond": respond, "max_turns": 0}, "max_turns=0"),
        ({"respond": respond, "max_reply_tokens": 0}, "max_reply_tokens=0"),
        ({"max_turns": 2}, "max_turns=2 has no effect without respond="),
        ({"legal_tokens": []}, "legal_tokens is empty"),
        ({"legal_tokens": ["QQ"]}, "'QQ', which is 2 tokens"),
        ({"legal_tokens": [9999]}, "legal_tokens contains 9999"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
def test_arguments_that_are_wrong_are_a_sentence(given, sentence, make_small):
    with pytest.raises((ValueError, TypeError), match=sentence):
        make_small(None, **given)


def test_a_transcript_is_what_was_read(tokenizer):
    """Replies are marked and cut; what is answered to the last turn is not in it."""
    given = {"max_new_tokens": 9, "max_turns": 3, "max_turn_tokens": 2, "max_reply_tokens": 4}
    given["respond"] = lambda episode: " so " + "x" * 10**6
    env = TextGenEnv(**arguments(tokenizer, **given))
    env.reset(seed=0)
    for _ in range(6):
        _, _, ended, _, info = env.step(50)
    assert ended and info["transcript"] == "QQ ‹so› QQ ‹so› QQ" and info["replies_cut"] == 2
