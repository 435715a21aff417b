"""Plots of whatever names: a text in a plot is shown as it is."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from agents.evaluation import plots
from agents.evaluation.optimum import Attainable

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


def test_powers_at_a_logarithmic_axis_are_formulas(tmp_path):
    figure, (axes,) = plots.panels(1)
    axes.loglog([1, 1000], [1, 1000], label="$a_{")
    plots.save_figure(figure, tmp_path / "plot.png")
    assert all(label.get_parse_math() for label in axes.get_xticklabels(which="both"))
    assert not axes.xaxis.label.get_parse_math()
    assert not axes.get_legend().get_texts()[0].get_parse_math()


def test_a_plot_replaces_a_link_and_not_what_it_points_to(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "plot.png").symlink_to("mine.txt")
    plots.learning_curve(LOG, tmp_path / "plot.png")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "plot.png").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "plot.png"]


def test_a_line_of_one_point_is_seen():
    figure = Figure()
    axes = figure.subplots()
    (one,), (more,) = axes.plot([1], [2]), axes.plot([1, 2], [2, 3])
    plots.styled(figure)
    assert one.get_marker() == "o" and more.get_marker() == "None"


def test_the_log_of_a_model_of_others_stands_beside_the_others():
    """It has a return, but no score and no KL; the colours stay those of the runs."""
    foreign = {
        name: column for name, column in LOG.items() if name.startswith(("time", "rollout/ep"))
    }
    runs = {"sb3": foreign, "ours": LOG}
    assert ">sb3</text>" in plots.returns_panel(runs, None)
    plane = plots.plane_panel(runs, None)
    assert ">ours</text>" in plane and ">sb3</text>" not in plane and "#ff7f0e" in plane


def test_what_is_estimated_has_a_band():
    scores = np.random.default_rng(0).normal(size=(4, 64))
    reach = Attainable(list(scores), 0.5)
    for panel in (plots.returns_panel, plots.plane_panel):
        svg = panel({"a": LOG}, reach)
        assert "opacity: 0.1" in svg
