"""A progress bar that also shows return, score, KL, length and speed."""

from __future__ import annotations

from collections.abc import Mapping

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A context manager, made by `over`, in which `show` updates the bar.

    Args:
        visible: False shows nothing.
        goal: the optimal return, to show beside the return.
    """

    COLUMNS = (
        ("return", "rollout/ep_rew_mean", "{:+.3f}"),
        ("score", "rollout/score_mean", "{:+.3f}"),
        ("KL", "rollout/kl", "{:.2f}"),
        ("length", "rollout/ep_len_mean", "{:.1f}"),
        ("steps/s", "time/fps", "{:.0f}"),
    )

    def __init__(self, visible: bool = True, goal: float | None = None):
        self.total, self.goal = 0, goal
        self.progress = Progress(
            BarColumn(20),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            disable=not visible,
        )

    @classmethod
    def of(cls, bar: bool | ProgressBar) -> ProgressBar:
        """A bar as it is; True and False make a visible one and one that shows nothing."""
        return bar if isinstance(bar, cls) else cls(visible=bool(bar))

    def over(self, total: int) -> ProgressBar:
        """This bar, for ``total`` timesteps to take."""
        self.total = total
        return self

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
            + (f" of {self.goal:+.3f}" if label == "return" and self.goal is not None else "")
            for label, key, form in self.COLUMNS
            if key in record
        ]
        self.progress.update(
            self.task, completed=min(timesteps, self.total), description="  ".join(parts)
        )
