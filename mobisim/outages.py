"""When something is down: a link that carries nothing, a device that is away."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from mobisim.scenario.profiles import Outages
from mobisim.scenario.quantities import Duration
from mobisim.streams import Factor, factor_stream


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
    return Outlook(_outages(outages, factor))


def _outages(outages: Outages | None, factor: Factor) -> Iterator[tuple[float, float]]:
    if outages is None:
        return
    yield from outages.windows
    if outages.up is None or outages.down is None:
        return
    now = 0.0
    while True:
        down_at = now + _lasts(outages.up.value, factor)
        now = down_at + _lasts(outages.down.value, factor)
        yield down_at, now


def _lasts(duration: Duration, factor: Factor) -> float:
    return duration.mean * (factor() if duration.distribution == "exponential" else 1.0)
