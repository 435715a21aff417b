"""The recipes of CONTRIBUTING.md do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
RECIPES = dict(re.findall(r"^### (.+?)$.+?^```python\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE))


def test_there_are_five_recipes():
    assert list(RECIPES) == [
        "A reward", "A KL estimator", "An advantage", "An algorithm", "A policy",
    ]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name):
    exec(compile(RECIPES[name], f"CONTRIBUTING.md, {name}", "exec"), {"__name__": "recipe"})
