"""What a process that computes for real settles before it begins: its core, threads and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os

# glibc's malloc.h: never give the heap's end back, and map nothing but the largest blocks apart.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = 2**31 - 1, 2**25


def settle(core: int | None) -> None:
    """Stay on a core where the system allows it, compute with one thread, keep memory.

    Memory that goes back to the system has to be taken anew, page by page, for a time that hangs on
    the system: a fifth of a large step on a virtual machine.
    """
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another libc than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
