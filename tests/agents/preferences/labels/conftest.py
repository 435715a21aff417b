"""A labelling of a few pairs."""

from __future__ import annotations

import pytest

from agents.preferences.labels import Labelling
from agents.preferences.pairs import Pair


@pytest.fixture
def pairs():
    return [
        Pair(f"prompt {i}:", (f" left {i}", f" right {i}"), (0, 0), ("runs/a", "runs/b"))
        for i in range(6)
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.jsonl"


@pytest.fixture
def labelling(path, pairs):
    return Labelling.create(path, pairs, {"seed": 0})
