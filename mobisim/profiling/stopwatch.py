"""Clocks: laps between the kernels of one run, on whatever machine they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch

# Processor time leaves out what other programs took, so it stands for an idle machine's wall clock
# where one thread computes; that of several threads counts their waiting for each other.
CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}


class Timed(NamedTuple):
    """An operator at its shape, as in the sample table."""

    operator: str
    batch: int
    length: int
    width: int
    width_out: int
    precision: str


@dataclass
class Stopwatch:
    """Laps of one run: `begin`, a `lap` after each kernel, `laps` when all is done.

    CUDA records events, which cost the stream next to nothing; other accelerators are made to
    finish before the clock is read.
    """

    device: torch.device
    clock: Callable[[], float] = time.perf_counter
    _marks: list[Any] = field(default_factory=list)
    _names: list[Timed] = field(default_factory=list)

    def begin(self) -> None:
        """Forget what was, start the first lap."""
        self._names.clear()
        self._marks = [self._mark()]

    def lap(self, name: Timed) -> None:
        """End a lap that was spent on `name`."""
        self._names.append(name)
        self._marks.append(self._mark())

    def laps(self) -> dict[Timed, float]:
        """Seconds of each name; what came several times counts as its mean."""
        synchronize(self.device)
        found: dict[Timed, list[float]] = {}
        for name, (start, end) in zip(self._names, pairwise(self._marks), strict=True):
            found.setdefault(name, []).append(self._between(start, end))
        return {name: sum(laps) / len(laps) for name, laps in found.items()}

    def _mark(self) -> Any:
        if self.device.type == "cuda":
            event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            return event
        synchronize(self.device)
        return self.clock()

    def _between(self, start: Any, end: Any) -> float:
        if self.device.type == "cuda":
            return float(start.elapsed_time(end)) / 1e3
        return float(end - start)


def synchronize(device: torch.device) -> None:
    """Wait until the accelerator has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def best_device() -> torch.device:
    """The accelerator of this machine, else its processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
