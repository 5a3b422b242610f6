"""What others do on this machine: the share of its cores that is neither idle nor ours."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import psutil

IDLE = ("idle", "iowait")
TWICE = ("guest", "guest_nice")  # within `user` and `nice` already


class Neighbours:
    """Tells, after a `with` block, how much of all cores others took while it lasted.

    Others are processes that this one did not start, the kernel's own work, and other machines on
    the same processor (steal). A process started in the block must have ended with it, or have been
    there before.
    """

    share: float = 0.0

    def __enter__(self) -> Self:
        self._since = time.monotonic(), _busy_s() - _own_s()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        begun, before = self._since
        cores = (time.monotonic() - begun) * (psutil.cpu_count() or 1)
        # Ticks of the clock are counted for one process and for all at different instants.
        self.share = max(_busy_s() - _own_s() - before, 0.0) / cores


def _busy_s() -> float:
    times: dict[str, float] = psutil.cpu_times()._asdict()
    return sum(seconds for name, seconds in times.items() if name not in (*IDLE, *TWICE))


def _own_s() -> float:
    """Processor time of this process, of those that it started, and of those that have ended."""
    this = psutil.Process()
    total = 0.0
    for one in (this, *this.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
