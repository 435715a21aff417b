"""The one way in which anything is shown: all prints of the commands and of runs go through it.

Whatever a text holds, none of it is markup, and what a terminal would obey or hide is made visible
(`textenv.shown.printable`). Whatever happens to the output, no error of showing reaches a run.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from agents import files
from textenv.arguments import first_line
from textenv.shown import message, printable

Part = Any  # something to show, or a pair of it and a style of rich, such as "bold"
WIDEST = 1000  # columns of a terminal


class RunConsole(Console):
    """A console that shows texts as they are. One whose output is gone (``| head -1``, a full disk)
    becomes silent."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def say(self, *parts: Part) -> None:
        """Print parts one after the other, without breaking their lines."""
        self.print(text_of(*parts), soft_wrap=True)

    def print_uncut(self, table: Table) -> None:
        """Print a table of which no heading and no number is cut: where it is too wide, its columns
        come closer, and lines that are still too long are left to the terminal. A first column with
        a smallest width is folded to it."""

        def width() -> int:
            first = table.columns[0]
            first.width = first.min_width
            found = Measurement.get(self, self.options.update(width=WIDEST), table).maximum
            first.width = None
            return found

        if width() > self.width:
            table.collapse_padding = True
            table.width = max(width(), self.width)
        self.print(table, crop=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """As of rich, which also asks it for the cells of tables."""
        return super().render_str(printable(text), **options)

    @property
    def file(self) -> Any:
        """The output, which raises no error."""
        return _Output(super().file, self)

    @file.setter
    def file(self, file: Any) -> None:
        self._file = file

    def on_broken_pipe(self) -> None:
        """Be silent from now on."""
        self.quiet = True
        # What Python still has to write at its end goes nowhere, too.
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Output:
    """A file to write to, whose errors make the console silent. What its encoding does not have is
    written as escapes."""

    name = ""  # stable-baselines3 goes round what is called "<stdout>"

    def __init__(self, file: Any, console: RunConsole):
        self._file, self._console = file, console

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        try:
            try:
                self._file.write(text)
            except UnicodeEncodeError:
                encoding = self._file.encoding
                self._file.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # a ValueError is one of a closed file
            self._console.on_broken_pipe()

    def flush(self) -> None:
        try:
            self._file.flush()
        except (OSError, ValueError):
            self._console.on_broken_pipe()


def text_of(*parts: Part) -> Text:
    """One text of parts, for a line or the cell of a table."""
    pairs = (part if isinstance(part, tuple) else (part, "") for part in parts)
    return Text.assemble(*((printable(str(shown)), style) for shown, style in pairs))


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """Within it something is drawn, to be looked at: an error is said, and ends nothing."""
    try:
        yield
    except Exception as error:
        said = isinstance(error, OSError | files.DamagedFile)
        why = str(error) if said else first_line(error)
        console.say((f"The {what} cannot be drawn: {why.rstrip('.')}.", "yellow"))


def complain(text: object) -> None:
    """Print a message as one of errors."""
    print(message(text), file=sys.stderr)


console = RunConsole()
