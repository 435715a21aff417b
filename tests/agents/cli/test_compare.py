"""``compare``: a table of algorithms, a plot, and no run twice."""

from __future__ import annotations

import json
import re

import pytest

from agents.cli import main


@pytest.fixture
def options(small, tmp_path):
    return ["compare", *small, "--seeds", "2", "--output", str(tmp_path)]


def test_compare_trains_each_and_draws(options, printed, tmp_path):
    text = printed(*options, "--agents", "ppo", "grpo")
    assert "Games-Howell" in text
    assert (tmp_path / "comparison.png").stat().st_size > 5_000
    for name in ("ppo", "grpo"):
        runs = [tmp_path / f"{name}-{seed}" for seed in (0, 1)]
        assert all((run / "agent" / "agent.json").is_file() for run in runs)
        summaries = [json.loads((run / "evaluation.json").read_text())["after"] for run in runs]
        mean = sum(one["score"]["mean"] - 0.1 * one["kl"]["mean"] for one in summaries) / 2
        (row,) = [line.split() for line in text.splitlines() if line.startswith(f"{name} ")]
        assert float(row[1]) == pytest.approx(mean, rel=5e-3)
        assert summaries[0] != summaries[1]
    lines = text[: text.index("\nreturn =")].splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["return", "share"])
    rows = [re.split(" {2,}", line.strip()) for line in lines[first + 1 :]]
    assert {row[0] for row in rows} == {
        "ppo", "grpo", "untouched", "best of 4", "best of 16", "optimum"
    }  # fmt: skip
    returns = [float(row[1].split()[0]) for row in rows]
    assert returns == sorted(returns, reverse=True)
    assert "…" not in text  # it fits into 80 columns


def test_compare_repeats_no_run_and_mixes_no_settings(options, small, tmp_path):
    options = [*options, "--agents", "reinforce"]
    main(options)
    evaluation = tmp_path / "reinforce-0" / "evaluation.json"
    first = evaluation.stat().st_mtime_ns
    main(options)
    assert evaluation.stat().st_mtime_ns == first
    with pytest.raises(SystemExit) as ending:
        main([*options, "--reward", "length(5)"])
    assert ending.value.code == 1 and evaluation.stat().st_mtime_ns == first
    main([*options, "--reward", "length(5)", "--overwrite"])
    assert evaluation.stat().st_mtime_ns > first


def test_agents_and_seeds_that_do_not_fit_are_refused(options):
    with pytest.raises(SystemExit, match="--agent dqn is unknown: use one of grpo, ppo"):
        main([*options, "--agents", "dqn"])
    with pytest.raises(SystemExit, match="--seeds 1 must be a whole number of at least 2"):
        main([*options, "--agents", "ppo", "--seeds", "1"])
