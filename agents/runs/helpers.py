"""Processes beside this one that do the same work, for as long as it does it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def helpers(count: int, work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Within it ``count`` − 1 processes call ``work(*arguments, part)``, with a different ``part``
    from 0 to 1 each, and all of them have as many threads. They end with the block.

    Whatever ends a helper is not told: it leaves its work to this process, which meets the same.
    """
    threads = max(1, (os.cpu_count() or 1) // count)
    spawning = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    processes = [
        spawning.Process(target=_help, args=(work, arguments, number / count, threads), daemon=True)
        for number in range(1, count)
    ]
    before = torch.get_num_threads()
    if processes:
        torch.set_num_threads(threads)
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            process.terminate()  # by a signal at which a run saves what it has
        for process in processes:
            process.join()
        torch.set_num_threads(before)


def _help(work: Callable[..., Any], arguments: tuple, part: float, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
        work(*arguments, part)


def _end_with_parent() -> None:
    """End this process as its parent would, once that was killed without a chance to do it."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
