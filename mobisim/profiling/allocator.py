"""Memory as a pass of work finds it: used before, or new from the system, which zeroes its pages.

A training step keeps much and frees it in the end; the C library then gives most of it back, and
the next step takes it anew. That costs time by itself, so that operators are timed with memory
used before, and memory taken anew apart. Only glibc can be told; others are left as they are.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of mallopt
MIB = 1 << 20
# Where glibc's own thresholds end up once large blocks were freed, and its count of mappings.
SETTLED = ((MMAP_THRESHOLD, 32 * MIB), (TRIM_THRESHOLD, 64 * MIB), (MMAP_MAX, 65536))
KEEPING = ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1))


def settle() -> None:
    """Let the C library hold as much as it does in a process that has freed large blocks."""
    _tell(SETTLED)


@contextmanager
def used_memory(num_bytes: int) -> Iterator[None]:
    """Within it, so many bytes are at hand that were used before."""
    _tell(KEEPING)
    try:
        torch.ones(num_bytes // 4)  # touched and freed
        yield
    finally:
        settle()


def release_memory() -> None:
    """Give all freed memory back to the system."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _tell(settings: tuple[tuple[int, int], ...]) -> None:
    library = _glibc()
    if library is not None:
        for name, value in settings:
            library.mallopt(name, value)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    known = hasattr(library, "malloc_trim") and hasattr(library, "gnu_get_libc_version")
    return library if known else None
