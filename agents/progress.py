"""A progress bar that also shows speed, score, KL and length."""

from __future__ import annotations

from collections.abc import Mapping

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A context manager in which `show` updates the bar.

    Args:
        total: timesteps to take.
        visible: False shows nothing.
    """

    COLUMNS = (
        ("score", "rollout/score_mean", "{:+.3f}"),
        ("return", "rollout/ep_rew_mean", "{:+.3f}"),
        ("KL", "rollout/kl", "{:.2f}"),
        ("length", "rollout/ep_len_mean", "{:.1f}"),
        ("steps/s", "time/fps", "{:.0f}"),
    )

    def __init__(self, total: int, visible: bool = True):
        self.total = total
        self.progress = Progress(
            BarColumn(30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            disable=not visible,
        )

    def __enter__(self) -> ProgressBar:
        self.progress.__enter__()
        self.task = self.progress.add_task("", total=self.total)
        return self

    def __exit__(self, *exception) -> None:
        self.progress.__exit__(*exception)

    def show(self, timesteps: int, record: Mapping[str, float]) -> None:
        """Set the bar to ``timesteps`` and show the metrics of the log."""
        parts = [
            f"{label} {form.format(record[key])}"
            for label, key, form in self.COLUMNS
            if key in record and not (label == "return" and "rollout/score_mean" in record)
        ]
        self.progress.update(
            self.task, completed=min(timesteps, self.total), description="  ".join(parts)
        )
