"""Tiny runs of the command line, in this process, and what they print."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from agents.cli import main


@pytest.fixture(scope="session")
def small(model_folder, tmp_path_factory) -> list[str]:
    """Options that make a run one of seconds: a tiny model, few tokens, few episodes."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a b\nc\nb a c a\n")
    return [
        "--model", model_folder, "--prompts", str(prompts), "--reward", "length(3)",
        "--total-timesteps", "100", "--n-envs", "8", "--eval-episodes", "8",
        "--max-new-tokens", "5", "--device", "cpu",
    ]  # fmt: skip


@pytest.fixture
def printed(capsys) -> Callable:
    """``printed(*arguments)``: what a command prints."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        main(list(arguments))
        return capsys.readouterr().out

    return run


ROWS = {
    "score": "score (mean ± standard error)",
    "kl": "KL to the reference, nats per episode",
    "recomputed": "recomputed by plain forward passes",
    "length": "length, tokens",
    "distinct_2": "distinct-2",
}


@pytest.fixture(scope="session")
def read_table() -> Callable:
    """``read_table(printed)``: the numbers of each row of a table of evaluations, by column."""

    def read(text: str) -> dict[str, list[float]]:
        table = {}
        for name, label in ROWS.items():
            row = re.search(rf"^ *{re.escape(label)}(.*)$", text, re.MULTILINE)
            assert row, f"{label!r} is not in:\n{text}"
            cells = re.sub(r"± \S+", "", row.group(1)).split()
            table[name] = [float(cell) for cell in cells]
        return table

    return read


@pytest.fixture
def own_reward(tmp_path, monkeypatch) -> str:
    """A reward as "module:function": the share of the letter "b"."""
    (tmp_path / "letters.py").write_text(
        "def share(prompt, response):\n    return response.count('b') / (1 + len(response))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "letters:share"
    sys.modules.pop("letters", None)
