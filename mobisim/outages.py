"""When something is down: a link that carries nothing, a device that is away."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from mobisim.scenario.profiles import Absences, Outages
from mobisim.scenario.quantities import Duration
from mobisim.streams import Factor, factor_stream, uniform


class Outlook:
    """The outages of one link or device, as far as anyone asked."""

    def __init__(self, outages: Iterator[tuple[float, float]]) -> None:
        self.further = outages
        self.known: list[tuple[float, float]] = []
        self.ends: list[float] = []

    def after(self, at: float) -> Iterator[tuple[float, float]]:
        """The outages that end after an instant, in order."""
        index = bisect_right(self.ends, at)
        while index < len(self.known) or self._learn():
            if self.known[index][1] > at:
                yield self.known[index]
            index += 1

    def over(self, at: float) -> float:
        """When the outage at an instant is over: at once where there is none."""
        for down_at, up_at in self.after(at):
            return up_at if down_at <= at else at
        return at

    def _learn(self) -> bool:
        found = next(self.further, None)
        if found is None:
            return False
        self.known.append(found)
        self.ends.append(found[1])
        return True


def outlook(outages: Outages | None, seed: int, stream: str) -> Outlook:
    """The outages that are stated, with the random factors of a stream."""
    factor = factor_stream(seed, stream, "exponential")
    assert factor is not None
    return Outlook(_outages(outages, factor, joins_at(outages, seed, stream)))


def joins_at(outages: Outages | None, seed: int, stream: str) -> float:
    """When a device joins whose absences are drawn from a stream; 0 where that is not stated."""
    joins = outages.joins if isinstance(outages, Absences) else None
    if joins is None:
        return 0.0
    drawn = uniform(seed, f"{stream}/joins")
    shares = np.cumsum([0.0, *(joins.shares or (1.0,))])
    edges = np.linspace(0.0, joins.within.value, len(shares))
    return float(np.interp(drawn * shares[-1], shares, edges))


def _outages(
    outages: Outages | None, factor: Factor, joined: float
) -> Iterator[tuple[float, float]]:
    if outages is None:
        return
    if joined > 0:
        yield 0.0, joined
    yield from ((max(start, joined), end) for start, end in outages.windows if end > joined)
    if outages.up is None or outages.down is None:
        return
    now = joined
    while True:
        down_at = now + _lasts(outages.up.value, factor)
        now = down_at + _lasts(outages.down.value, factor)
        yield down_at, now


def _lasts(duration: Duration, factor: Factor) -> float:
    return duration.mean * (factor() if duration.distribution == "exponential" else 1.0)
