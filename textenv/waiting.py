"""Wait for foreign code for a limited time: it runs in a thread, which cannot be ended."""

import threading
from collections.abc import Callable
from typing import Any


class TookTooLong(Exception):
    """The code has not returned; ``thread`` is the number of its thread, which is left behind."""

    def __init__(self, thread: int):
        super().__init__("it took too long")
        self.thread = thread


def in_time(work: Callable[[], Any], seconds: float, name: str) -> Any:
    """What ``work`` returns or raises; `TookTooLong` after so many seconds. ``name`` is that of
    the thread."""
    answers: list[Any] = []
    errors: list[BaseException] = []

    def in_thread() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=in_thread, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TookTooLong(thread.ident or 0)
    return answers[0]
