"""The console: texts as they are, and no error of showing reaches who prints."""

from __future__ import annotations

import errno
import io
from contextlib import redirect_stdout

import pytest
from rich.table import Table

from agents.training import progress
from agents.training.console import RunConsole, text_of
from agents.training.progress import ProgressBar, episodes_bar

FOREIGN = [
    "[a]",
    "[/b]",
    "[bold]x[/bold]",
    "\\[red]",
    ":smile:",
    "C:\\[x]\\",
    "[link=file:///x]y[/]",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_no_text_is_markup(text):
    console = RunConsole(file=io.StringIO(), width=60)
    console.say(text, ("", "dim"), (f" {text}", "bold"))
    console.print(text)
    table = Table(text)
    table.add_row(text)
    console.print(table)
    assert console.file.getvalue().count(text) == 5


def test_what_a_terminal_would_obey_is_shown_wherever_it_stands():
    bad, seen = "\x1b]0;t\x07\x9b2J\u202e\r", "\\x1b]0;t\\x07\\x9b2J\\u202e\\x0d"
    console = RunConsole(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    table = Table(bad)
    table.add_column(text_of((bad, "bold")))
    table.add_row(bad, text_of(bad))
    for each in (bad, table):
        console.print(each)
    console.say(bad, (bad, "bold"))
    shown = console.file.getvalue()
    assert shown.count(seen) == 7
    assert not {"\x07", "\x9b", "\u202e", "\r"} & set(shown)


def encoded(name: str, *parts) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=name, write_through=True)
    with redirect_stdout(file):
        console = RunConsole()
        console.say(*parts)
        assert not console.quiet
    return file.buffer.getvalue().decode(name)


@pytest.mark.parametrize(("name", "escaped"), [("cp1252", "\\u25b8"), ("ascii", "\\u25b8")])
def test_signs_that_the_encoding_lacks_are_escaped(name, escaped):
    assert encoded(name, "a ▸ b 😀") == f"a {escaped} b \\U0001f600\n"
    assert encoded("utf-8", "a ▸ \ud800") == "a ▸ \\ud800\n"


class Broken(io.StringIO):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "gone"), BrokenPipeError(),
     ValueError("I/O operation on closed file.")],
    ids=repr,
)  # fmt: skip
def test_an_output_that_is_gone_makes_it_silent(error, monkeypatch):
    console = RunConsole(file=Broken(error))
    console.say("lost")
    assert console.quiet
    console.say("silent")
    console = RunConsole(file=Broken(error), force_terminal=True)
    monkeypatch.setattr("agents.training.progress.console", console)
    with ProgressBar().over(10) as bar:
        bar.show(5, {"rollout/ep_rew_mean": 1.0})
    assert console.quiet


def test_in_a_notebook_one_line_moves(monkeypatch):
    console = RunConsole(file=io.StringIO(), width=200)
    console.is_jupyter = True
    monkeypatch.setattr(progress, "console", console)
    with ProgressBar().over(10) as bar:
        bar.show(4, {"rollout/score_mean": 0.5, "time/fps": 1000.0})
        bar.show(8, {"rollout/score_mean": 0.5})
    first, second = console._file.getvalue().split("\r")[1:]
    assert "\n" not in first and first.startswith("4 of 10 tokens") and "1000 tokens/s" in first
    assert second.startswith("8 of 10 tokens") and second.endswith("\n")
    assert len(second.rstrip("\n")) == len(first)  # nothing of the longer line is left


@pytest.mark.parametrize("terminal", [True, False])
def test_sampled_episodes_are_counted_in_a_terminal(terminal, monkeypatch):
    console = RunConsole(file=io.StringIO(), width=200, force_terminal=terminal)
    monkeypatch.setattr(progress, "console", console)
    with episodes_bar(500) as show:
        assert (show is not None) == terminal
        if show is not None:
            show(512)
    assert ("500 of 500 episodes" in console._file.getvalue()) == terminal
