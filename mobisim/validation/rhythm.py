"""The rhythm of a scenario: when, within the time of one mini-batch, each part of it works.

Work that follows a pause finds its memory out of the caches, and what works at the same time takes
its share of them. So pieces are timed as the simulated scenario would have them follow one another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from mobisim.span import DECODE, ENCODE, FORWARD, SIDE_FORWARD, STEP, TRANSFER, SpanColumns
from mobisim.testbed.clock import now

WORK = {"device": (FORWARD, ENCODE), "uplink": (TRANSFER,), "server": (DECODE, SIDE_FORWARD, STEP)}
RESTLESS = 0.97  # who works so much of the time sets the pace, and waits for no beat
Numbers = tuple[float, float, tuple[float, ...]]


@dataclass(frozen=True)
class Beat:
    """When one role may begin with each part of the n-th mini-batch, by the clock of all times."""

    origin_s: float
    period_s: float
    offsets_s: tuple[float, ...]  # of the parts

    @classmethod
    def of(cls, numbers: Numbers) -> Self:
        """From `numbers`, as JSON carries them."""
        origin_s, period_s, offsets_s = numbers
        return cls(origin_s, period_s, tuple(offsets_s))

    @property
    def numbers(self) -> Numbers:
        """As plain numbers."""
        return self.origin_s, self.period_s, self.offsets_s

    def due(self, number: int, part: int = 0) -> float:
        """The instant of a part."""
        offset_s = self.offsets_s[min(part, len(self.offsets_s) - 1)]
        return self.origin_s + self.period_s * number + offset_s

    def wait(self, number: int, part: int = 0) -> None:
        """Sleep until a part is due; not at all where it is late."""
        time.sleep(max(self.due(number, part) - now(), 0.0))

    def after(self, number: int) -> int:
        """The mini-batch that follows one: those that have wholly passed are left out."""
        if not self.period_s:
            return number + 1
        return max(number + 1, math.floor((now() - self.due(0)) / self.period_s))


FREE = Beat(0.0, 0.0, (0.0,))  # always due


@dataclass(frozen=True)
class Rhythm:
    """The beats of device, link and server."""

    period_s: float
    offsets_s: dict[str, tuple[float, ...]]  # from the first forward of a mini-batch
    restless: frozenset[str]

    @classmethod
    def of(cls, spans: SpanColumns) -> Self:
        """That of a simulated run with one device and one worker, without its beginning.

        spans: all of the run; each part has a forward, a transfer and a decoding.
        """
        ends = spans.end[spans.kind == STEP]
        begun = len(ends) // 4
        period_s = (ends[-1] - ends[begun]) / (len(ends) - 1 - begun)
        starts = {role: _starts(spans, kinds)[begun:] for role, kinds in WORK.items()}
        since = starts["device"][:, :1]
        busy = {role: _busy(spans, kinds, starts[role].min()) for role, kinds in WORK.items()}
        return cls(
            float(period_s),
            {
                role: _offsets(np.median(one - since, axis=0), period_s)
                for role, one in starts.items()
            },
            frozenset(role for role, share in busy.items() if share >= RESTLESS),
        )

    def beat(self, role: str, origin_s: float) -> Beat:
        """Of `device`, `uplink` or `server`, from an instant of the clock on."""
        if role in self.restless:
            return FREE
        return Beat(origin_s, self.period_s, self.offsets_s[role])


def _starts(spans: SpanColumns, kinds: Iterable[int]) -> np.ndarray:
    """When the parts of each mini-batch began: mini-batches x parts."""
    first = next(kind for kind in kinds if kind in spans.kind)  # each part begins with it
    mine = spans.kind == first
    order = np.lexsort((spans.start[mine], spans.batch[mine]))
    found: np.ndarray = spans.start[mine][order].reshape(len(np.unique(spans.batch[mine])), -1)
    return found


def _busy(spans: SpanColumns, kinds: Iterable[int], since: float) -> float:
    """The share of the time that work of these kinds took, from an instant to its end."""
    mine = np.isin(spans.kind, tuple(kinds)) & (spans.start >= since)
    lasted = spans.end[mine] - spans.start[mine]
    return float(lasted.sum() / (spans.end[mine].max() - since))


def _offsets(of_parts: np.ndarray, period_s: float) -> tuple[float, ...]:
    """The same instants, the first part's within the first period."""
    whole = math.floor(of_parts[0] / period_s) * period_s
    return tuple(float(one - whole) for one in of_parts)
