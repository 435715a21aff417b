"""The recipes of the pages do what they say: each block runs as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
COUNTS = {"CONTRIBUTING.md": 5, "examples/recipes.md": 25}
RECIPES = {
    f"{page}, {name}": code
    for page in COUNTS
    for name, code in re.findall(
        r"^### (.+?)$.+?^```python\n(.+?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
}
NEEDS = {"examples/recipes.md, LoRA": ("peft",)}  # what a recipe needs but does not import
# What must be true after a recipe that could go wrong without an error.
CHECKS = {
    "examples/recipes.md, LoRA": """
assert not hasattr(model, "peft_config") and len(list(model.parameters())) == len(
    [name for name, _ in agent.policy.model.named_parameters() if "lora" not in name]
)
""",
    "examples/recipes.md, Callbacks": """
from pathlib import Path
assert len(list(Path("runs/checkpoints").iterdir())) >= 1
""",
    "examples/recipes.md, TensorBoard": """
from pathlib import Path
[file] = Path("runs/tensorboard/happy_1").iterdir()
assert b"rollout/ep_rew_mean" in file.read_bytes()
""",
    "examples/recipes.md, Weights & Biases": """
from pathlib import Path
wandb.teardown()  # the process that writes the file may still have a part of it
[file] = Path("wandb").glob("offline-run-*/*.wandb")
assert b"rollout/ep_rew_mean" in file.read_bytes()
""",
    "examples/recipes.md, Resume": """
assert agent.num_timesteps >= 400
""",
    "examples/recipes.md, A policy of your own": """
assert agent.policy.value_head[2].weight.abs().max() > 0  # it has learned, and was loaded
""",
    "examples/recipes.md, Watch the tokens": """
assert "\x1b[30;48;5;" in env.render()
""",
}


@pytest.mark.parametrize("page", COUNTS)
def test_every_recipe_of_a_page_is_found(page):
    text = (ROOT / page).read_text()
    found = [name for name in RECIPES if name.startswith(page)]
    assert len(found) == COUNTS[page] == text.count("```python") == text.count("\n### ")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name, tmp_path, monkeypatch, skip_without_packages):
    skip_without_packages(RECIPES[name], *NEEDS.get(name, ()))
    monkeypatch.chdir(tmp_path)  # a recipe may write to runs/
    recipe = ModuleType("recipe")  # as a file that is imported: classes look for their module
    monkeypatch.setitem(sys.modules, "recipe", recipe)
    names = vars(recipe)
    exec(compile(RECIPES[name], name, "exec"), names)
    exec(CHECKS.get(name, ""), names)
