"""How the processes end together, and who prints."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

from agents.ranks.exchange import ProcessLost, everyone
from agents.ranks.processes import count, is_main, rank

_in_a_block = False  # of `together`


def tells_all() -> bool:
    """Whether an error that is raised now is raised in all processes (`together`)."""
    return count() == 1 or _in_a_block


@contextmanager
def together() -> Iterator[None]:
    """A block that ends in all processes if it ends in one: an error of one is raised in all.

    Each process waits for the others at the end of the block, in which they must not exchange
    anything.

    Raises:
        ProcessLost: another process has ended.
        BaseException: the error of this process, else that of the first process that has one.
    """
    if count() == 1:
        yield
        return
    global _in_a_block
    own: BaseException | None = None
    try:
        _in_a_block = True
        yield
        _in_a_block = False
    except BaseException as error:
        _in_a_block, own = False, error
    try:
        errors = everyone(None if own is None else _sendable(own))
    except ProcessLost:
        if own is None or not isinstance(own, Exception):
            raise  # a signal is the launcher's, which ends the processes that are left
        errors = []
    except Exception:  # they were never met, and the error of this process may say why
        if own is None:
            raise
        errors = []
    for one in [own, *errors]:
        if one is not None:
            one.in_all_processes = True
            raise one


def leave(error: BaseException) -> None:
    """After an error of `together`, wait until the first process has saved.

    A launcher ends all other processes once one of them has ended with an error.
    """
    if count() > 1 and getattr(error, "in_all_processes", False):
        with suppress(ProcessLost):
            everyone(None)


@contextmanager
def silent_unless_main() -> Iterator[None]:
    """Print nothing in a process other than the first, unless its program fails."""
    if is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except SystemExit as ending:  # Python would print a sentence that the first one prints
            sys.exit(1 if isinstance(ending.code, str) else ending.code)


def _sendable(error: BaseException) -> BaseException:
    """The error itself if it survives pickling, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"process {rank()}: {type(error).__name__}: {error}")
