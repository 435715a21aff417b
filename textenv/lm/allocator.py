"""Memory that a process on a CPU frees, and soon takes again."""

import ctypes
import os
import sys
from functools import cache

# Of glibc's mallopt, see `man 3 mallopt`.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER, NONE = -1, 0


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees for what it allocates next, and say whether it
    does.

    The C library of Linux, glibc, gives each large block back to the system, which has to clear it
    before it can be used again. Logits, activations and gradients are large, and made anew in each
    pass: that takes a twelfth to a sixth of an update (`tests/benchmarks/results/parts.md`). The
    most memory that a process takes rises by some percent, and between two passes it keeps that.

    Nothing changes where there is no glibc, or where an environment variable sets an allocator or
    its rules already: ``LD_PRELOAD``, ``GLIBC_TUNABLES``, or one of those that begin with
    ``MALLOC_``.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_")]
    if chosen or os.environ.get("LD_PRELOAD") or os.environ.get("GLIBC_TUNABLES"):
        return False
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return False
    # Blocks of the heap are used again; those that are mapped by themselves are not.
    return bool(mallopt(M_MMAP_MAX, NONE) and mallopt(M_TRIM_THRESHOLD, NEVER))
