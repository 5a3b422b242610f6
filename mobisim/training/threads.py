"""The thread policy: each kernel runs on one thread, and independent work runs side by side.

Sums split over threads change in their last bits, so results would depend on the machine's cores;
and torch's own threads spin, which costs minutes where cores are shared. Groups of samples have no
such sums between them, so the backbone forwards them in parallel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from mobisim.cores import num_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST_WORKERS = 8


@contextlib.contextmanager
def one_thread_per_kernel() -> Iterator[None]:
    """Torch kernels on one thread while the context is open."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results of independent work in the order of the items, as many at once as cores."""
    workers = min(len(items), num_cores(), _MOST_WORKERS)
    with one_thread_per_kernel():
        if workers < 2:  # noqa: PLR2004 (no pool for one)
            return [work(item) for item in items]
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
