"""Interrupts, remembered until they count.

Python raises KeyboardInterrupt wherever it happens to be, also where exceptions are dropped: in a
destructor, or in a callback from C. One that got lost there counts at the next check.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

_came: list[int] = []


@contextmanager
def remembering() -> Iterator[None]:
    """Remember interrupts for a while, each raised as ever; only a main thread is told of them."""
    _came.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, tell = signal.signal(signal.SIGINT, _remember), sys.unraisablehook
    sys.unraisablehook = partial(_tell_of_others, tell)
    try:
        yield
    finally:
        sys.unraisablehook = tell
        signal.signal(signal.SIGINT, before)
        _came.clear()


def _remember(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    signal.default_int_handler(number, frame)


def _tell_of_others(tell: Callable[[Any], object], dropped: Any) -> None:
    """Tell of an exception that was dropped, unless it is an interrupt: that will count."""
    if not (_came and issubclass(dropped.exc_type, KeyboardInterrupt)):
        tell(dropped)


def check() -> None:
    """End the work where an interrupt has come and got lost.

    Raises:
        KeyboardInterrupt: that interrupt.
    """
    if _came:
        raise KeyboardInterrupt
