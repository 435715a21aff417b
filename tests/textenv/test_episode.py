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
