"""Heat: how a device's pace falls while it computes and comes back while it rests."""

from __future__ import annotations

import math

from mobisim.world import Heat

_MOST_ROUNDS = 100  # Newton's method on a concave function needs a handful


class Warmth:
    """The heat of one device, from piece of work to piece of work."""

    def __init__(self, heat: Heat) -> None:
        self.heat = heat
        self.level = 0.0  # 0 cold, 1 as warm as it gets
        self.at = 0.0
        self.began = 0.0, 0.0  # when the last piece of work did, and how warm the device was then

    def lasts(self, start: float, seconds: float) -> float:
        """How long a piece of work lasts that takes `seconds` at full pace; the device warms."""
        tau = self.heat.time_constant_s
        self.level *= math.exp(-(start - self.at) / tau)
        self.began = start, self.level
        lasts = self._solve(seconds)
        self._warms(lasts)
        return lasts

    def stops(self, now: float) -> None:
        """The last piece of work is cut short."""
        start, self.level = self.began
        self._warms(now - start)

    def _warms(self, seconds: float) -> None:
        start, _ = self.began
        self.level = 1.0 - (1.0 - self.level) * math.exp(-seconds / self.heat.time_constant_s)
        self.at = start + seconds

    def _solve(self, seconds: float) -> float:
        """When the work done reaches `seconds`: it is concave in time, so Newton climbs to it."""
        share, tau = self.heat.sustained, self.heat.time_constant_s
        fresh = (1.0 - share) * (1.0 - self.level)
        lasts = seconds
        for _ in range(_MOST_ROUNDS):
            done = share * lasts - fresh * tau * math.expm1(-lasts / tau)
            longer = lasts + (seconds - done) / (share + fresh * math.exp(-lasts / tau))
            if longer <= lasts:
                break
            lasts = longer
        return lasts
