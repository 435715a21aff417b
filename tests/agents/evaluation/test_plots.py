"""Plots of whatever names: a text in a plot is shown as it is."""

from __future__ import annotations

import numpy as np
import pytest

from agents.evaluation import plots

LOG = {
    plots.TOKENS: np.array([10.0, 20.0]), plots.SCORE: np.array([0.1, 0.2]),
    plots.KL: np.array([0.0, 0.1]), "rollout/ep_rew_mean": np.array([0.1, 0.2]),
}  # fmt: skip


@pytest.mark.parametrize("name", ["keyword($5_{, $9)", "$\\frac$ a\x1b[2J\u202e $$"])
def test_a_name_may_hold_any_sign(name, tmp_path):
    plots.learning_curve(LOG, tmp_path / "one.png", name)
    plots.comparison({name: [LOG, LOG]}, {name: [(0.1, 0.2)] * 2}, None, tmp_path / "two.png", name)
    for panel in (
        plots.returns_panel({name: LOG}, None), plots.plane_panel({name: LOG}, None),
        plots.column_panel({name: LOG}, plots.KL, name),
    ):  # fmt: skip
        assert "\x1b" not in panel and "\u202e" not in panel
    assert name != "$$" or ">$$</text>" in plots.returns_panel({name: LOG}, None)
    assert all((tmp_path / f"{each}.png").stat().st_size > 1000 for each in ("one", "two"))


def test_a_plot_replaces_a_link_and_not_what_it_points_to(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "plot.png").symlink_to("mine.txt")
    plots.learning_curve(LOG, tmp_path / "plot.png")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "plot.png").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "plot.png"]
