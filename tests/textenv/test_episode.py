from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from textenv.episode import Episode


def make_episode(**changes):
    fields = {
        "prompt": "Say hi.",
        "response": "hi",
        "prompt_ids": np.array([1, 2]),
        "response_ids": np.array([3, 0]),
        "finish_reason": "stop",
    }
    return Episode(**{**fields, **changes})


def test_an_episode_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_episode().response = "bye"


def test_episodes_are_equal_only_to_themselves_and_fit_in_a_set():
    first, second = make_episode(), make_episode()
    assert first == first
    assert first != second
    assert len({first, second, first}) == 2


def test_data_is_empty_and_not_shared_by_default():
    first, second = make_episode(), make_episode()
    assert first.data == {}
    assert first.data is not second.data


def test_what_is_changed_in_a_column_ends_with_the_episode():
    row = {"answer": [1], "entry": {"cells": [[2]]}, "board": np.zeros(2), "tags": {3}}
    changed = make_episode(data=row).data
    changed["answer"].append(9)
    changed["entry"]["cells"][0].append(9)
    changed["board"][0] = 9
    changed["tags"].add(9)
    again = make_episode(data=row).data
    assert again["answer"] == [1] and again["entry"] == {"cells": [[2]]} and again["tags"] == {3}
    assert again["board"].tolist() == [0, 0]
