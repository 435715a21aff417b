"""The table of metrics of ``verbose=1``, for whatever names and outputs."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import pytest

from agents.training.metrics import Table

BEGIN = "a reward with a name of more than thirty-six letters, "


def table(**entries: float) -> list[str]:
    out = io.StringIO()
    with redirect_stdout(out):
        Table().write(entries, dict.fromkeys(entries))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("count", [2, 12])
def test_names_that_are_cut_to_the_same_one_have_rows_of_their_own(count):
    entries = {f"rollout/score/{BEGIN}{number}": float(number) for number in range(count)}
    rows = table(**entries, **{"rollout/kl": 1.0, "time/fps": 2.0})
    assert sum("score/a reward" in row for row in rows) == count
    assert len({row.split("|")[1] for row in rows if "score/" in row}) == count
    assert max(map(len, rows)) <= 79
    values = [row.split("|")[2].strip() for row in rows if "score/" in row]
    assert sorted(values, key=float) == [str(number) for number in range(count)]


def test_names_are_shown_as_they_are():
    rows = table(**{"rollout/score/[b]\x1b[2J\n": 1.0, "rollout/score/$": 2.0})
    assert any("score/[b]\\x1b[2J⏎" in row for row in rows) and any("score/$" in r for r in rows)
    assert len(rows) == 5


def test_short_names_are_left_alone():
    assert table(**{"rollout/kl": 1.0, "rollout/ep_rew_mean": 2.0})[1:-1] == [
        "| rollout/       |          |",
        "|    ep_rew_mean | 2        |",
        "|    kl          | 1        |",
    ]


def test_an_agent_prints_it_whatever_its_output_can_show(make_agent, tmp_path):
    rewards = {f"keyword({'x' * 40}, {letter})": 1.0 for letter in "b▸"}
    file = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)
    with redirect_stdout(file):
        log = str(tmp_path / "log")
        make_agent("REINFORCE", env={"reward": rewards}, verbose=1, tensorboard_log=log).learn(1)
    shown = file.buffer.getvalue().decode("cp1252")
    assert shown.count("score/keyword(xxx") == 2 and "Logging to" in shown
