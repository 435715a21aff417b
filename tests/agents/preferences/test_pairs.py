"""Preferences: reading the forms of public data sets, labels with known noise, bad files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agents.preferences.pairs import (
    Pair,
    Preference,
    as_lines,
    bradley_terry,
    ceiling,
    label,
    load_preferences,
)

USER = {"role": "user", "content": "Hi"}


def answer(text):
    return {"role": "assistant", "content": text}


def test_the_forms_of_public_data_sets_load_as_they_are():
    """TRL's formats: explicit and implicit prompts, as texts and as conversations."""
    rows = [
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "id": 7},
        {"chosen": "\n\nUser: Hi\n\nBot: Hello.", "rejected": "\n\nUser: Hi\n\nBot: Go."},
        {"prompt": [USER], "chosen": [answer("Hello.")], "rejected": [answer("Go.")]},
        {"chosen": [USER, answer("Hello.")], "rejected": [USER, answer("Go.")]},
    ]  # fmt: skip
    plain, implicit, explicit, conversation = load_preferences(rows)
    assert plain == Preference("The sky is", " blue.", " green.", {"id": 7})
    assert implicit == Preference("\n\nUser: Hi\n\nBot:", " Hello.", " Go.")
    assert explicit == conversation == Preference((USER,), (answer("Hello."),), (answer("Go."),))


def test_two_words_that_begin_alike_are_not_split():
    (preference,) = load_preferences([{"chosen": "A good film", "rejected": "A great film"}])
    assert preference == Preference("A", " good film", " great film")


def test_a_dataset_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    file = tmp_path / "pairs.jsonl"
    file.write_text(as_lines([Preference("a", "b\u2028é", "c"), Preference("d", "e", "f")]))
    rows = datasets.Dataset.from_list([json.loads(line) for line in open(file, encoding="utf-8")])
    assert load_preferences(rows) == load_preferences(file)
    assert load_preferences(file)[0].chosen == "b\u2028é"


def test_bradley_terry_by_hand():
    assert bradley_terry(np.array([0.0, 1.0, -2.0]), 1.0) == pytest.approx(
        [0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))]
    )
    assert bradley_terry(np.array([0.0, 0.1, -9.0]), 0).tolist() == [0.5, 1, 0]
    assert bradley_terry(np.array([1e9, -1e9]), 1e-9) == pytest.approx([1, 0], abs=1e-300)


def test_labels_have_the_noise_that_they_say():
    pairs = [Pair("p", ("better", "worse"), (1.0, 0.0), ("a", "b"))] * 20_000
    preferences = label(pairs, temperature=1.0, seed=0)
    share = np.mean([preference.chosen == "better" for preference in preferences])
    truth = 1 / (1 + np.exp(-1))  # the deviation of the share is 0.0031
    assert share == pytest.approx(truth, abs=0.013)
    assert ceiling(preferences) == pytest.approx(truth)
    right = next(p for p in preferences if p.chosen == "better")
    wrong = next(p for p in preferences if p.chosen == "worse")
    assert right.data == {
        "chosen_score": 1.0, "rejected_score": 0.0, "probability": pytest.approx(truth),
        "chosen_by": "a", "rejected_by": "b",
    }  # fmt: skip
    assert wrong.data["probability"] == pytest.approx(1 - truth)
    assert label(pairs, 1.0, 0) == preferences != label(pairs, 1.0, 1)


def test_the_ceiling_is_unknown_where_the_noise_is():
    assert (
        ceiling([Preference("p", "a", "b", {"probability": 0.9}), Preference("p", "a", "b")])
        is None
    )
    assert ceiling([]) is None


BAD = [
    ("", "is empty"),
    ("\n\n", "is empty"),
    ('{"prompt": "a", "chosen": "b"}', r"line 1, has no column 'rejected', only \['chosen'"),
    ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"x": 1}', "line 2, has no column 'chosen'"),
    ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "line 1, has the same response"),
    ('{"chosen": "b", "rejected": "c"}', "begin differently: add a column 'prompt'"),
    ('{"prompt": 3, "chosen": "b", "rejected": "c"}', "has the prompt 3: give a string, or a list"),
    ('{"prompt": "a", "chosen": [], "rejected": "c"}', r"has the chosen \[\]: give a string"),
    ('{"prompt": "a", "chosen": [{"role": "user"}], "rejected": "c"}', "'role' and 'content'"),
    ('{"prompt": "a", "chosen": null, "rejected": "c"}', "has the chosen None: give a string"),
    ("[1, 2]", "item 1, is a int: give an object"),
    ('{"prompt": "a", ', "line 1, is not JSON"),
    (
        '{"prompt": "a", "chosen": [{"role": "a", "content": "x"}], "rejected": "c"}',
        "a text and a conversation",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), BAD, ids=range(len(BAD)))
def test_what_is_no_preference_is_named_with_its_line(content, sentence, tmp_path):
    (tmp_path / "file.jsonl").write_text(content)
    with pytest.raises(ValueError, match=sentence) as error:
        load_preferences(tmp_path / "file.jsonl")
    assert "\n" not in str(error.value) and "file.jsonl" in str(error.value)


def test_a_missing_file_and_a_wrong_temperature():
    with pytest.raises(FileNotFoundError, match=r"preferences='nothing.jsonl' is not a file"):
        load_preferences("nothing.jsonl")
    for temperature in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"temperature={temperature} must be"):
            label([], temperature, 0)
