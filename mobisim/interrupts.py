"""Interrupts, remembered until they count.

Python raises KeyboardInterrupt wherever it happens to be, also where exceptions are dropped: in a
destructor, or in a callback from C. One that got lost there counts at the next check.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came: list[int] = []


@contextmanager
def remembering() -> Iterator[None]:
    """Remember interrupts for a while, each raised as ever; only a main thread is told of them."""
    _came.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _came.clear()


def _remember(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    signal.default_int_handler(number, frame)


def check() -> None:
    """End the work where an interrupt has come and got lost.

    Raises:
        KeyboardInterrupt: that interrupt.
    """
    if _came:
        raise KeyboardInterrupt
