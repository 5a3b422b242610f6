"""A progress bar for whatever takes longer than two seconds; silent when nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mobisim.prepare import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PATIENCE_S = 2.0


@contextmanager
def showing_progress() -> Iterator[Progress]:
    """A function to report progress to: what is done, how much of it, of how much."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    shown = _Shown()
    try:
        yield shown.report
    finally:
        shown.close()


class _Shown:
    def __init__(self) -> None:
        self.began = time.monotonic()
        self.bar: Bar | None = None
        self.tasks: dict[str, object] = {}

    def report(self, what: str, done: int, total: int) -> None:
        if self.bar is None:
            if time.monotonic() - self.began < PATIENCE_S:
                return
            self.bar = _bar()
            self.bar.start()
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, total=total)
        self.bar.update(self.tasks[what], completed=done)  # type: ignore[arg-type]  # rich's own id

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def _bar() -> Bar:
    from rich.console import Console  # noqa: PLC0415 - only where somebody watches
    from rich.progress import Progress as RichProgress  # noqa: PLC0415

    return RichProgress(console=Console(stderr=True), transient=True)
