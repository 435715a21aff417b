"""Stop tokens, stop strings wherever tokens break, and the least length of a response."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from textenv import TextGenEnv, TextGenVectorEnv

END, STOP = 0, 1  # the ids of "<end>" and "<stop>"


def test_a_stop_token_ends_an_episode_and_counts_as_an_action(make_env, ids, reward, write, ends):
    steps = write(make_env(), [*ids("hi"), END])
    assert ends(steps) == [False, False, True]
    observation, score, _, _, info = steps[-1]
    assert score == 2
    assert info == {
        "response": "hi",
        "response_length": 3,
        "score": 2.0,
        "finish_reason": "stop",
    }
    # <end> is the padding as well: the mask comes from the length, not from the id.
    assert observation["attention_mask"].sum() == 5 + 3
    assert reward.last.response_ids.tolist() == [*ids("hi"), END]


def test_a_stop_token_on_the_last_token_of_the_budget_is_a_stop(make_env, ids, write):
    *_, info = write(make_env(max_new_tokens=2), [*ids("h"), END])[-1]
    assert info["finish_reason"] == "stop"


@pytest.mark.parametrize("stop", ["<stop>", STOP, ["<stop>", "x"], [STOP, 2]])
def test_there_may_be_several_stop_tokens(stop, make_env, ids, write, ends):
    env = make_env(stop=stop)
    assert ends(write(env, [*ids("h"), STOP])) == [False, True]
    assert ends(write(env, [*ids("h"), END])) == [False, True]


def test_a_further_stop_token_keeps_its_text(make_env, ids, write):
    *_, info = write(make_env(stop=ids("!")), ids("hi!"))[-1]
    assert (info["response"], info["finish_reason"]) == ("hi!", "stop")


@pytest.mark.parametrize(
    ("stop", "pieces", "response"),
    [
        ("\n", ["h", "i", "\n"], "hi"),
        ("end", ["x", "e", "n", "d"], "x"),  # across three tokens
        ("ba", ["x", "b", "ab"], "x"),  # its last token goes on behind it
        ("b", ["x", "ab"], "xa"),  # inside a token
        (["zz", "yx"], ["y", "x"], ""),  # any of several
        ("é", ["é"], ""),  # one character of two tokens
    ],
)
def test_a_stop_string_ends_an_episode_wherever_tokens_break(
    stop, pieces, response, make_env, ids, reward, write, ends
):
    tokens = [token for piece in pieces for token in ids(piece)]
    steps = write(make_env(stop=stop), tokens)
    assert ends(steps) == [False] * (len(tokens) - 1) + [True]
    *_, info = steps[-1]
    assert (info["response"], info["finish_reason"]) == (response, "stop")
    assert info["response_length"] == len(tokens)
    assert reward.last.response_ids.tolist() == tokens  # every action is kept


def test_a_stop_string_must_be_in_the_response_alone(make_env, ids, write, ends):
    env = make_env(prompts=["say en"], stop="end")
    assert ends(write(env, ids("d!"))) == [False, False]


def test_a_stop_string_ending_in_a_space_is_found_where_pieces_are_joined(reward, write, ends):
    vocabulary = {"<end>": 0, "▁": 1, "hi": 2, "▁there": 3, "▁you": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="▁"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    arguments = {"tokenizer": tokenizer, "prompts": ["there"], "reward": reward}
    steps = write(TextGenEnv(**arguments, stop="hi "), [2, 3])
    assert ends(steps) == [False, True]
    # A stop string with the space before the first word of the response, and only with it.
    *_, info = write(TextGenEnv(**arguments, stop=" you"), [4])[-1]
    assert (info["response"], info["finish_reason"]) == ("", "stop")
    assert ends(write(TextGenEnv(**arguments, stop="there you"), [4, 3])) == [False, False]
    # Alone, this kind of tokenizer would drop the space before the first token of a response.
    *_, info = write(TextGenEnv(**arguments, max_new_tokens=2), [4, 3])[-1]
    assert info["response"] == " you there"


def test_ids_may_have_gaps(reward, write, ends):
    """The largest id counts, and not the number of tokens."""
    backend = Tokenizer(models.WordLevel({"<end>": 0, "hi": 2, "there": 9}, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    assert len(tokenizer) == 3
    env = TextGenEnv(tokenizer=tokenizer, prompts=["hi"], reward=reward, max_new_tokens=4, stop=[9])
    assert env.action_space.n == 10 == env.observation_space["input_ids"].high.max() + 1
    steps = write(env, [5, 2, 9])  # 5 is no token, and no text
    assert ends(steps) == [False, False, True]
    assert steps[-1][-1]["response"].split() == ["hi", "there"]


def test_min_new_tokens_puts_off_every_kind_of_stop(make_env, ids, write, ends):
    env = make_env(min_new_tokens=3, stop="x")
    assert ends(write(env, [END, *ids("x"), END])) == [False, False, True]
    assert ends(write(env, [*ids("xyx")])) == [False, False, True]
    *_, info = write(env, [*ids("xyzw")])[-1]
    assert (info["response"], info["finish_reason"]) == ("xyzw", "length")


@pytest.mark.parametrize("stop", [259, -1, "", [""], [1.5], [None]])
def test_a_stop_that_is_neither_string_nor_token_is_refused(stop, refuses):
    entry = stop[0] if isinstance(stop, list) else stop
    refuses(
        rf"stop contains {entry!r}: give strings that are not empty, or token ids from 0 to 258",
        stop=stop,
    )


@pytest.mark.parametrize("stop", ["é", "。", "né", "ß ", "🙂", "ab"])
@pytest.mark.parametrize("kind", ["ByT5", "byte-level BPE"])
def test_a_stop_string_of_bytes_ends_a_response(kind, stop, tokenizer):
    """ByT5 decodes a part of a letter as nothing, other tokenizers as U+FFFD."""
    of_bytes = transformers.ByT5Tokenizer() if kind == "ByT5" else tokenizer
    answer = of_bytes("x" + stop, add_special_tokens=False)["input_ids"]
    envs = TextGenVectorEnv(
        1, tokenizer=of_bytes, prompts=["q"], stop=[stop], reward="length", max_new_tokens=12,
        autoreset_mode="DISABLED",
    )  # fmt: skip
    envs.reset(seed=0)
    for token in answer[:-1]:
        assert not envs.step(np.array([token]))[2].any()
    _, _, ended, _, infos = envs.step(np.array([answer[-1]]))
    assert ended.all() and infos["response"][0] == "x"
