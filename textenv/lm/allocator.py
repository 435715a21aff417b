"""Memory that a process on a CPU frees, and soon takes again."""

import ctypes
import os
import sys
from functools import cache

# Of glibc's mallopt, see `man 3 mallopt`.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
RULES = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_")  # how names of variables begin


@cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees for what it allocates next.

    The C library of Linux, glibc, gives each large block back to the system, which has to clear it
    before it can be used again. Logits, activations and gradients are large, and made anew in each
    pass: that takes a twelfth to a sixth of an update of SmolLM2
    (`tests/benchmarks/results/parts.md`). The most memory that a process takes rises by some
    percent, and between two passes it keeps that.

    Nothing changes where there is no glibc, or where an environment variable sets an allocator or
    its rules already, one of those that begin as `RULES`.
    """
    chosen = any(value and name.startswith(RULES) for name, value in os.environ.items())
    if chosen or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)  # blocks that are mapped by themselves are not used again
        mallopt(M_TRIM_THRESHOLD, -1)  # never
