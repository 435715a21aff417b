"""The tables of the commands: no heading and no number is cut, however narrow the terminal is."""

from __future__ import annotations

import dataclasses
import io
from itertools import combinations, count

import numpy as np
import pytest

from agents.cli import duel_command
from agents.evaluation import TextEvaluation, tables
from agents.evaluation.comparison import Comparison, Run
from agents.evaluation.optimum import Attainable
from agents.evaluation.tables import sample_line
from agents.preferences.duels import duel, tournament
from agents.training.console import RunConsole
from textenv.prompts.chat import Rendered

KL_COEF = 0.05


@pytest.fixture(params=[80, 60, 200])
def console(request) -> RunConsole:
    return RunConsole(file=io.StringIO(), width=request.param)


def evaluation(scale: float, seed: int = 0) -> TextEvaluation:
    rng, rows = np.random.default_rng(seed), 64
    scores, kls = rng.normal(0.5, 1, rows) * scale, np.abs(rng.normal(2, 1, rows))
    return TextEvaluation(
        scores, scores, kls, kls[:48], np.full(rows, 20.0), ["a"] * rows, ["b c d"] * rows, 1234.0,
        KL_COEF,
    )  # fmt: skip


@pytest.fixture
def attainable() -> Attainable:
    rng = np.random.default_rng(1)
    return Attainable([rng.normal(0, 1, 64) for _ in range(4)], KL_COEF)


@pytest.mark.parametrize("scale", [1.0, 10.0, 1000.0])
def test_evaluations(scale, attainable, console):
    columns = {"before": evaluation(scale), "after": evaluation(scale, 1)}
    tables.print_evaluations(columns, attainable, console)
    table = console.file.getvalue().split("tokens/s")[0]
    assert "…" not in table
    for whole in ("before", "after", "optimum", "return = score − 0.05·KL", "recomputed plainly"):
        assert whole in table
    for each in columns.values():
        assert tables.with_error(each.scores) in table
    lines = table.splitlines()
    if console.width == 80 and scale < 100:
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_comparison(scale, attainable, console):
    seeds = count()
    runs = [
        Run("Task-v0", name, seed, evaluation(scale * (1 + seed / 100), next(seeds)), 100, 1.0)
        for name in ("ppo(learning_rate=0.0003,n_epochs=2,gae_lambda=0.9)", "untouched")
        for seed in range(3)
    ]  # fmt: skip
    tables.print_comparison(Comparison(runs, {"Task-v0": attainable}), "Task-v0", console)
    table = console.file.getvalue().split("return = score")[0]
    assert "…" not in table and "tokens" in table and "dist-2" in table
    assert "…" not in console.file.getvalue()


@pytest.mark.parametrize("is_planned", [False, True])
@pytest.mark.parametrize("name", ["best-of-16", "untouched"])
def test_why_best_of_n_may_be_above_a_planned_optimum_is_said(
    name, is_planned, attainable, console
):
    planned = attainable.optimum if is_planned else None
    reach = dataclasses.replace(attainable, planned=planned, is_dialogue=True)
    runs = [Run("Task-v0", name, seed, evaluation(1, seed), 0, 1.0) for seed in range(2)]
    tables.print_comparison(Comparison(runs, {"Task-v0": reach}), "Task-v0", console)
    said = " ".join(console.file.getvalue().split())
    assert (tables.HINDSIGHT in said) == (name == "best-of-16" and is_planned)


def test_duels(console, monkeypatch):
    monkeypatch.setattr(duel_command, "console", console)
    names = [f"runs/{'a' * 50}-{number}" for number in range(3)]
    scores = {name: np.arange(8) + number for number, name in enumerate(names)}
    results = {
        (one, other): duel(scores[one], scores[other]) for one, other in combinations(names, 2)
    }
    duel_command.print_duels(results, tournament(scores))
    text = console.file.getvalue()
    assert "…" not in text and "win rate, 95 %" in text and "Bradley-Terry strength" in text


def test_rounding_of_a_low_precision_has_a_footnote(attainable, console):
    exact = evaluation(1.0)
    low = dataclasses.replace(exact, kls=exact.kls + 0.04)
    for each, wanted in ((exact, False), (low, True)):
        tables.print_evaluations({"before": each}, attainable, console)
        text = console.file.getvalue()
        assert ("rounding of its precision" in text) == wanted
        assert "by chance a share can be below 0 %" in text


CHAT = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        (Rendered(CHAT.format("Why?"), "Why?"), "Why?  ▸ "),
        (Rendered(CHAT.format("W" * 150), "W" * 150), f"{'W' * 100}…  ▸ "),
        ("once " * 40, f"…{('once ' * 40)[-100:]}"),
        ("Once upon ", "Once upon "),
    ],
)
def test_a_conversation_is_shown_as_what_was_asked(prompt, shown):
    (begin, _), response = sample_line(0.5, prompt, "Because of\nthis.")
    assert begin == f"  +0.50  {shown}" and "Because of" in response and "this." in response
