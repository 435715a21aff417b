"""What is shown while something takes its time: a bar in a terminal; while an agent learns, a line
that moves in a notebook, and elsewhere a line for each rollout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from agents.training.console import console


class ProgressBar:
    """A context manager, made by `over`, in which `show` updates the bar, unless it is not visible.
    ``goal`` is the optimal return, to show beside the return."""

    COLUMNS = (
        ("return", "rollout/ep_rew_mean", "return {:+z.2f}"),
        ("score", "rollout/score_mean", "score {:+z.2f}"),
        ("KL", "rollout/kl", "KL {:z.2f}"),
        ("speed", "time/fps", "{:.0f} {unit}/s"),
    )

    def __init__(self, visible: bool = True, goal: float | None = None):
        self.total: float = 0
        self.start, self.goal, self.visible = 0, goal, visible
        self.written = 0  # letters of the line in a notebook
        self.bar = Progress(
            BarColumn(8),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[times]}"),
            TextColumn("{task.description}"),
            console=console,
            disable=not (visible and console.is_terminal),
        )

    @classmethod
    def of(cls, bar: bool | ProgressBar) -> ProgressBar:
        """A bar as it is; True and False make a visible one and one that shows nothing."""
        return bar if isinstance(bar, cls) else cls(visible=bool(bar))

    def over(self, total: float, start: int = 0) -> ProgressBar:
        """This bar, for the timesteps from ``start`` to ``total``."""
        self.total, self.start = total, start
        return self

    def __enter__(self) -> ProgressBar:
        self.began = time.monotonic()
        self.bar.__enter__()
        self.task = self.bar.add_task("", total=self.total, completed=self.start, times="")
        return self

    def __exit__(self, *exception) -> None:
        self.bar.__exit__(*exception)
        if self.written:
            console.file.write("\n")

    def times(self, timesteps: int) -> tuple[float, float]:
        """Seconds since the start, and seconds to go at the mean speed so far."""
        elapsed = time.monotonic() - self.began
        done = max(timesteps - self.start, 1)
        return elapsed, elapsed / done * max(self.total - timesteps, 0)

    def show(self, timesteps: int, record: Mapping[str, float]) -> None:
        """Set the bar to ``timesteps`` and show the metrics of the log."""
        unit = "tokens" if "rollout/score_mean" in record else "steps"
        parts = [
            form.format(record[key], unit=unit)
            + (f" of {self.goal:+z.2f}" if name == "return" and self.goal is not None else "")
            for name, key, form in self.COLUMNS
            if key in record
        ]
        elapsed, left = map(clock, self.times(timesteps))
        if self.bar.disable and self.visible:
            line = f"{timesteps} of {self.total} {unit}  {elapsed}, {left} left  {'  '.join(parts)}"
            if console.is_jupyter:
                console.file.write(f"\r{line.ljust(self.written)}")
                self.written = len(line)
            else:
                console.say(line)
            console.file.flush()  # a file that somebody follows
        self.bar.update(
            self.task,
            completed=min(timesteps, self.total),
            description="  ".join(parts),
            times=f"{elapsed}, {left} left",
        )


@contextmanager
def episodes_bar(total: int) -> Iterator[Callable[[int], None] | None]:
    """A block that samples ``total`` episodes: in a terminal a function that shows how many there
    are, on a bar that vanishes afterwards; None elsewhere."""
    if not console.is_terminal:
        yield None
        return
    columns = BarColumn(8), TextColumn("{task.completed} of {task.total} episodes")
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.update(task, completed=min(count, total))


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
