"""The recipes of the pages do what they say: each block runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COUNTS = {"CONTRIBUTING.md": 5, "examples/recipes.md": 13}
RECIPES = {
    f"{page}, {name}": code
    for page in COUNTS
    for name, code in re.findall(
        r"^### (.+?)$.+?^```python\n(.+?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
}
NEEDS = {"examples/recipes.md, LoRA": ("peft",)}  # what a recipe needs but does not import


@pytest.mark.parametrize("page", COUNTS)
def test_every_recipe_of_a_page_is_found(page):
    text = (ROOT / page).read_text()
    found = [name for name in RECIPES if name.startswith(page)]
    assert len(found) == COUNTS[page] == text.count("```python") == text.count("\n### ")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name, tmp_path, monkeypatch, skip_without_packages):
    skip_without_packages(RECIPES[name], *NEEDS.get(name, ()))
    monkeypatch.chdir(tmp_path)  # a recipe may write to runs/
    exec(compile(RECIPES[name], name, "exec"), {"__name__": "recipe"})
