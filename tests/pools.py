"""Executors for tests: work done at once, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mobisim.sweeps.pools import Pool


class AtOnce(Executor):
    """Does what it is given before it returns; `calls` holds the work and its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.dies_at: Callable[[tuple[Any, ...]], bool] = lambda call: False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result, or a broken pool where `dies_at` says so."""
        self.calls.append(args)
        future: Future[Any] = Future()
        if self.dies_at(args):
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(fn(*args, **kwargs))
        return future

    def pool(self, window: int = 2) -> Pool:
        """A pool that opens this executor."""
        return Pool(self._opened, window)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Executor]:
        yield self
