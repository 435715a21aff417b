"""A progress bar that also shows return, score, KL and speed."""

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
        ("return", "rollout/ep_rew_mean", "return {:+.2f}"),
        ("score", "rollout/score_mean", "score {:+.2f}"),
        ("KL", "rollout/kl", "KL {:z.2f}"),
        ("speed", "time/fps", "{:.0f} steps/s"),
    )

    def __init__(self, visible: bool = True, goal: float | None = None):
        self.total, self.goal = 0, goal
        self.progress = Progress(
            BarColumn(10),
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
            form.format(record[key])
            + (f" of {self.goal:+.2f}" if name == "return" and self.goal is not None else "")
            for name, key, form in self.COLUMNS
            if key in record
        ]
        self.progress.update(
            self.task, completed=min(timesteps, self.total), description="  ".join(parts)
        )
