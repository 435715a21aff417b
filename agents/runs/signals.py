"""Ctrl-C, SIGTERM and a closed terminal, as an exception at a moment when nothing is half done."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; a shell expects the exit code 128 + its ``number``."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return Interrupted, (self.number,)  # KeyboardInterrupt's would take the name

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class Signals:
    """A context manager in which the first signal waits until it does no harm.

    A second signal raises `Interrupted` at once. A signal that the process ignores, as after
    ``nohup``, stays ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.raised = False
        # Whether a signal may interrupt what is running now, or a function that says so.
        self.at_once: bool | Callable[[], bool] = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # What was interrupted, such as an import, may have raised an error of its own from it. One
        # that only came later, such as a full disk while the run is saved, says more.
        while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            error = error.__cause__
            if isinstance(error, Interrupted):
                raise error

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, number
        at_once = self.at_once if isinstance(self.at_once, bool) else self.at_once()
        if at_once or again:
            self.raised = True
            raise Interrupted(number)

    def check(self) -> None:
        """Raise `Interrupted` for a signal that waits.

        An error that is on its way, while this is called, says more than a signal: a launcher sends
        one to all processes when it has found that one of them has ended.
        """
        if self.received is not None and not self.raised and sys.exception() is None:
            self.raised = True
            raise Interrupted(self.received)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that the first signal does not interrupt, but ends."""
        before, self.at_once = self.at_once, False
        try:
            yield
        finally:
            self.at_once = before
        self.check()
