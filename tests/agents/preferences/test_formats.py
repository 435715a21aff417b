"""Preferences of public data sets: each format from a file of three rows, and what is refused."""

from __future__ import annotations

import json

import pytest

from agents.preferences.pairs import load_preferences, render
from textenv.lm.loading import load_tokenizer


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


QUESTIONS = ("Why?", "Name a colour.", "2 + 2 =")
ANSWERS = (("Because.", "No."), ("Red", "Dog"), ("2 + 2 = 4", "five"))
AS_TEXTS = [(q, *answers) for q, answers in zip(QUESTIONS, ANSWERS, strict=True)]
AS_MESSAGES = [((user(q),), (bot(a),), (bot(b),)) for q, a, b in AS_TEXTS]
WITH_SYSTEM = [((system("Be brief."), *q), a, b) for q, a, b in AS_MESSAGES]


def rows(make):
    return [make(q, a, b) for q, a, b in AS_TEXTS]


def hh(question, answer):
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def chatml(question, answer):
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}"


FORMATS = {
    "TRL, explicit, standard": (
        rows(lambda q, a, b: {"prompt": q, "chosen": a, "rejected": b}),
        AS_TEXTS,
    ),
    "TRL, implicit, standard": (
        rows(lambda q, a, b: {"chosen": f"{q} {a}", "rejected": f"{q} {b}"}),
        [(q, f" {a}", f" {b}") for q, a, b in AS_TEXTS],
    ),
    "TRL, explicit, conversational": (
        rows(lambda q, a, b: {"prompt": [user(q)], "chosen": [bot(a)], "rejected": [bot(b)]}),
        AS_MESSAGES,
    ),
    "TRL, implicit, conversational": (
        rows(lambda q, a, b: {"chosen": [user(q), bot(a)], "rejected": [user(q), bot(b)]}),
        AS_MESSAGES,
    ),
    "UltraFeedback": (
        rows(
            lambda q, a, b: {
                "prompt": q, "prompt_id": "f0e3", "chosen": [user(q), bot(a)],
                "rejected": [user(q), bot(b)], "messages": [user(q), bot(a)],
                "score_chosen": 8.5, "score_rejected": 4.0,
            }
        ),
        AS_MESSAGES,
    ),
    "HH-RLHF": (
        rows(lambda q, a, b: {"chosen": hh(q, a), "rejected": hh(q, b)}),
        [(hh(q, "")[:-1], f" {a}", f" {b}") for q, a, b in AS_TEXTS],
    ),
    "HH-RLHF of several turns, with columns about the rows": (
        rows(
            lambda q, a, b: {
                "chosen": hh("Hi", "Yes?") + hh(q, a), "rejected": hh("Hi", "Yes?") + hh(q, b),
                "origin": "harmless base",
            }
        ),
        [(hh("Hi", "Yes?") + hh(q, "")[:-1], f" {a}", f" {b}") for q, a, b in AS_TEXTS],
    ),
    "ChatML as texts, with columns about the rows": (
        rows(
            lambda q, a, b: {
                "chosen": chatml(q, a), "rejected": chatml(q, b),
                "origin": "mine",
            }
        ),
        [(chatml(q, ""), a, b) for q, a, b in AS_TEXTS],
    ),
    "Alpaca": (
        rows(lambda q, a, b: {"instruction": q, "input": "", "chosen": a, "rejected": b}),
        AS_TEXTS,
    ),
    "Alpaca with an input": (
        rows(lambda q, a, b: {"instruction": "Do:", "input": q, "chosen": a, "rejected": b}),
        [(f"Do:\n{q}", a, b) for q, a, b in AS_TEXTS],
    ),
    "a system column, as orca_dpo_pairs has it": (
        rows(lambda q, a, b: {"system": "Be brief.", "question": q, "chosen": a, "rejected": b}),
        WITH_SYSTEM,
    ),
    "an empty system column": (
        rows(lambda q, a, b: {"system": "", "input": q, "chosen": a, "rejected": b}),
        AS_MESSAGES,
    ),
    "a text for a prompt, messages for the answers": (
        rows(lambda q, a, b: {"prompt": q, "chosen": [bot(a)], "rejected": [bot(b)]}),
        AS_MESSAGES,
    ),
    "one message for each answer": (
        rows(lambda q, a, b: {"prompt": [user(q)], "chosen": bot(a), "rejected": bot(b)}),
        AS_MESSAGES,
    ),
    "messages for a prompt, repeated": (
        rows(
            lambda q, a, b: {
                "prompt": [user(q)], "chosen": [user(q), bot(a)], "rejected": [user(q), bot(b)]
            }
        ),
        AS_MESSAGES,
    ),
    "a system message that only the conversations have": (
        rows(
            lambda q, a, b: {
                "prompt": q, "chosen": [system("Be brief."), user(q), bot(a)],
                "rejected": [system("Be brief."), user(q), bot(b)],
            }
        ),
        WITH_SYSTEM,
    ),
    "a system message that only the prompt has": (
        rows(
            lambda q, a, b: {
                "prompt": [system("Be brief."), user(q)], "chosen": [user(q), bot(a)],
                "rejected": [user(q), bot(b)],
            }
        ),
        WITH_SYSTEM,
    ),
    "texts that repeat the prompt": (
        rows(lambda q, a, b: {"prompt": q, "chosen": f"{q} {a}", "rejected": f"{q} {b}"}),
        [(q, f" {a}", f" {b}") for q, a, b in AS_TEXTS],
    ),
    "messages for a prompt, repeated by texts": (
        rows(lambda q, a, b: {"prompt": [user(q)], "chosen": f"{q}\n{a}", "rejected": f"{q}\n{b}"}),
        [((user(q),), a, b) for q, a, b in AS_TEXTS],
    ),
    "whole dialogues beside their question": (
        rows(lambda q, a, b: {"prompt": q, "chosen": hh(q, a), "rejected": hh(q, b)}),
        [(hh(q, "")[:-1], f" {a}", f" {b}") for q, a, b in AS_TEXTS],
    ),
    "messages as JSON in the cells": (
        rows(
            lambda q, a, b: {
                "prompt": json.dumps([user(q)]), "chosen": json.dumps([bot(a)]),
                "rejected": json.dumps([bot(b)]),
            }
        ),
        AS_MESSAGES,
    ),
}  # fmt: skip
FORMATS |= {
    f"the column {name}": (
        rows(lambda q, a, b, name=name: {name: q, "chosen": a, "rejected": b, "id": 3}),
        AS_TEXTS,
    )
    for name in ("question", "instruction", "query", "input")
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_public_format_loads_as_it_is(name, tmp_path):
    given, expected = FORMATS[name]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, given)))
    found = load_preferences(tmp_path / "pairs.jsonl")
    assert [(p.prompt, p.chosen, p.rejected) for p in found] == expected


def test_the_columns_that_are_no_part_of_the_pair_are_kept():
    row = {"question": "Why?", "chosen": "a", "rejected": "b", "margin": 2, "source": "x"}
    assert load_preferences([row])[0].data == {"margin": 2, "source": "x"}


def test_both_texts_are_those_of_the_template():
    """As transformers renders the whole conversation, up to the end of the answer."""
    tokenizer = load_tokenizer("bundled")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    for name in ("UltraFeedback", "messages for a prompt, repeated", "an empty system column"):
        for preference, messages in zip(
            load_preferences(FORMATS[name][0]), AS_MESSAGES, strict=True
        ):
            question, chosen, rejected = messages
            assert render(preference, tokenizer) == tuple(
                tokenizer.apply_chat_template([*question, *answer], tokenize=False)
                for answer in (chosen, rejected)
            )


def test_an_answer_may_begin_as_its_question_by_chance():
    """In one row of three, and within a word."""
    some = [*FORMATS["TRL, explicit, standard"][0][:2]]
    some.append({"prompt": "The", "chosen": "The film", "rejected": "The plot"})
    assert load_preferences(some)[2].chosen == "The film"
    (alone,) = load_preferences([{"prompt": "The", "chosen": "Then", "rejected": "There"}])
    assert alone.chosen == "Then"


PAIR = {"chosen": "I like it", "rejected": "I hate it"}
REFUSED = {
    "another column that may be the prompt": (
        {"post": "Do you like rain?", **PAIR},
        "line 1, has no column 'prompt', and its column 'post' could be it: rename it",
    ),
    "answers that begin as a speaker does": (
        {"frage": "Warum?", "chosen": "Answer: yes", "rejected": "Answer: no"},
        "its column 'frage' could be it",
    ),
    "another column of messages": (
        {"messages": [user("Do you?")], **PAIR},
        "its column 'messages' could be it",
    ),
    "two columns": (
        {"question": "Why?", "instruction": "Answer.", **PAIR},
        "has the columns 'question' and 'instruction', and each could be the prompt: rename",
    ),
    "a text about which is asked": (
        {"question": "Why?", "context": "It rained.", **PAIR},
        "has the column 'context' beside 'question', and it may belong to the prompt: write the",
    ),
    "earlier turns": (
        {"instruction": "And?", "history": [["Hi", "Hello"]], **PAIR},
        "has earlier turns in the column 'history': write all turns as messages",
    ),
    "ShareGPT": (
        {"chosen": [{"from": "human", "value": "Hi"}], "rejected": [{"from": "gpt", "value": "a"}]},
        "has messages with 'from' and 'value': rename these to 'role' and 'content'",
    ),
    "another prompt": (
        {
            "prompt": "Who?",
            "chosen": [user("Why?"), bot("a")],
            "rejected": [user("Why?"), bot("b")],
        },
        "has the prompt 'Who\\?', and the conversations in chosen and rejected do not begin",
    ),
    "several turns of answers": (
        {"chosen": [user("a"), bot("b"), user("c"), bot("d")], "rejected": [user("a"), bot("e")]},
        r"in chosen, messages of the roles \['assistant', 'user', 'assistant'\]: give one message",
    ),
    "no answer": (
        {"chosen": [user("a")], "rejected": [user("a"), bot("e")]},
        r"in chosen, messages of the roles \[\]: give one message of the assistant",
    ),
    "only answers": (
        {"chosen": [bot("b")], "rejected": [bot("c")]},
        "has two conversations that begin differently: begin both with the prompt, or",
    ),
    "an answer of the user": (
        {"prompt": "a", "chosen": [user("b")], "rejected": [user("c")]},
        "has two conversations that begin differently: begin both with the prompt, or",
    ),
    "other names of the answers": (
        {"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0},
        "has no column 'chosen', only",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_by_name(name, tmp_path):
    row, sentence = REFUSED[name]
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=sentence) as error:
        load_preferences(tmp_path / "pairs.jsonl")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_file_whose_rows_repeat_their_prompt_or_not_is_refused():
    given = [*FORMATS["texts that repeat the prompt"][0], {"prompt": "Who?", **PAIR}]
    with pytest.raises(ValueError, match=r"^preferences\[3\] has responses that do not begin with"):
        load_preferences(given)


def test_messages_are_short_however_long_the_value_is():
    long = [{"role": "user"}] * 100_000
    for row in (
        {"prompt": long, **PAIR},
        {"prompt": "x" * 2_000_000, **PAIR},
        dict.fromkeys("ab" * 9),
    ):
        with pytest.raises(ValueError) as error:
            load_preferences([row])
        assert len(str(error.value)) < 500
