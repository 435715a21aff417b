"""What ``import agents`` does not wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATE = ["transformers", "pandas", "scipy", "matplotlib", "stable_baselines3", "tyro"]


@pytest.mark.parametrize(
    ("statement", "late"),
    [("import agents", LATE), ("import agents.cli.train_command", ["pandas", "scipy.stats"])],
)
def test_slow_libraries_are_imported_when_they_are_needed(statement, late):
    script = f"import sys; {statement}; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_is_found():
    import agents

    assert {"PPO", "train", "compare", "evaluate"} < set(agents.__all__) <= set(dir(agents))
    assert all(getattr(agents, name) is not None for name in agents.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = agents.Nothing
