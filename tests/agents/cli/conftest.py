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
        "--max-new-tokens", "5", "--device", "cpu", "--reference-episodes", "96",
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
    "return": "return = score − [0-9.]+·KL",
    "score": "score",
    "kl": "KL, nats per episode",
    "recomputed": "recomputed plainly",
    "length": "length, tokens",
    "distinct_2": "distinct-2",
}


@pytest.fixture(scope="session")
def read_table() -> Callable:
    """``read_table(printed)``: the numbers of each row of a table of evaluations, by column.

    With ``reach=True`` those of best-of-n and the optimum instead.
    """

    def read(text: str, reach: bool = False) -> dict[str, list[float]]:
        table = {}
        evaluations = 2 if re.search(r"before +after", text) else 1
        for name, label in ROWS.items():
            row = re.search(rf"^ *{label}(.*)$", text, re.MULTILINE)
            if name == "return" and not row:
                continue  # KL costs nothing
            assert row, f"{label!r} is not in:\n{text}"
            cells = [float(cell) for cell in re.sub(r"± \S+", "", row.group(1)).split()]
            table[name] = cells[evaluations:] if reach else cells[:evaluations]
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
