"""A process that does some work: a fork of this one, which has everything imported."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def fork(work: Callable[[], object], log: Path) -> int:
    """Start a process; returns its id. What it prints is appended to ``log``.

    Its exit code is that with which ``work`` exits, 1 after an error, else 0.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        work()
        code = 0
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code)
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
