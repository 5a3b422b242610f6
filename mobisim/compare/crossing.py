"""Below which bandwidth training on the device alone is faster than with a server's help."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.optimize import brentq

from mobisim.compare.clock import Clock
from mobisim.report.comparison import Crossing
from mobisim.scenario.methods import METHODS

LOWEST, HIGHEST = 1e4, 1e10  # bit/s
TOLERANCE = 1e-4  # of the logarithm of the rate


def crossings(clock: Clock, methods: Sequence[str], rates: Sequence[float] = ()) -> list[Crossing]:
    """The crossing of each method that uses the link with one on the device alone.

    That is LoRA where it is compared and can be timed, else the fastest of them. `rates` are those
    at which times are known already.
    """
    finite = [m for m in methods if math.isfinite(clock.seconds(m, *rates[:1]))]  # or at no rate
    alone = [method for method in finite if not _uses_link(method)]
    if not alone:
        return []
    chosen = "lora" if "lora" in alone else min(alone, key=clock.seconds)
    others = [method for method in finite if _uses_link(method)]
    return [crossing(clock, chosen, other, rates) for other in others]


def _uses_link(method: str) -> bool:
    return bool(METHODS[method].up)


def crossing(clock: Clock, alone: str, other: str, rates: Sequence[float] = ()) -> Crossing:
    """Where the times of two methods are equal, if anywhere between the lowest and highest rate.

    More bandwidth never makes a method slower, so that there is one such rate at most. It is looked
    for in logarithms, in which a method that waits for its uplink is a straight line, and between
    two of `rates` where it lies there.
    """
    own = clock.seconds(alone)

    def behind(rate: float) -> float:
        """How far the other method lies behind, in logarithms."""
        return math.log(clock.seconds(other, rate) / own)

    known = sorted(rates)
    slow = [rate for rate in known if behind(rate) > 0]
    low = slow[-1] if slow else LOWEST
    high = known[len(slow)] if len(slow) < len(known) else HIGHEST
    if behind(low) <= 0:
        return Crossing(alone, other, None, faster=other)
    if behind(high) >= 0:
        return Crossing(alone, other, None, faster=alone)
    ends = math.log(low), math.log(high)
    at = float(brentq(lambda x: behind(math.exp(x)), *ends, xtol=TOLERANCE))
    return Crossing(alone, other, math.exp(at), faster=None)
