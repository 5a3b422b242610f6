"""A device's battery on the timeline: its charge, and the rests that a low one asks for."""

from __future__ import annotations

from itertools import count

from mobisim.cost.energy import Battery, Power
from mobisim.errors import InputError
from mobisim.outages import Outlook
from mobisim.units import human_time

MAX_FUTILE = 10_000  # times plugged in that do not fill what was drawn in between


class Charge:
    """Follows the charge of one battery from look to look; DESIGN.md says when it is looked at."""

    def __init__(self, battery: Battery, power: Power, unplugged: Outlook | None = None) -> None:
        self.battery, self.power, self.unplugged = battery, power, unplugged
        self.charge_j = battery.charge_j
        self.looked_at = 0.0
        self.drawn_j = 0.0  # on top of idling, since the last look
        self.computed_s = 0.0  # for the mini-batch at hand, then for the one before
        self.computed_until = 0.0

    def computes(self, start: float, end: float) -> None:
        """The device has computed for a while."""
        self.drawn_j += (self.power.load_w - self.power.idle_w) * (end - start)
        self.computed_s += end - start
        self.computed_until = end

    def sends(self, seconds: float, num_bytes: int) -> None:
        """The uplink has carried a message."""
        self.drawn_j += self.power.transfer_j(seconds, num_bytes)

    def rest_until(self, now: float) -> float:
        """Look at the charge: until when the device rests before its next mini-batch."""
        battery, net_w = self.battery, self.battery.charger_w - self.power.idle_w
        missed_j = battery.charger_w * self._unplugged_s(self.looked_at, now)
        charge = self.charge_j + net_w * (now - self.looked_at) - missed_j - self.drawn_j
        self.charge_j = min(battery.capacity_j, charge)
        self.looked_at, self.drawn_j = now, 0.0
        if self.charge_j >= battery.low_j:
            return now
        if battery.duty is None:
            return self._charged_at(now, battery.resume_j - self.charge_j, net_w)
        return max(now, self.computed_until + self.computed_s * (1 / battery.duty - 1))

    def _unplugged_s(self, start: float, end: float) -> float:
        """For how long of a time the charger gave nothing."""
        total = 0.0
        for out_at, in_at in self.unplugged.after(start) if self.unplugged is not None else ():
            if out_at >= end:
                break
            total += min(in_at, end) - max(out_at, start)
        return total

    def _charged_at(self, now: float, missing_j: float, net_w: float) -> float:
        """When so much is charged, while the device only idles."""
        if self.unplugged is None:
            return now + missing_j / net_w
        for number, (out_at, in_at) in zip(count(), self.unplugged.after(now), strict=False):
            until = max(out_at, now)
            if missing_j <= net_w * (until - now):
                break
            missing_j += self.power.idle_w * (in_at - until) - net_w * (until - now)
            now = in_at
            if number > MAX_FUTILE:
                raise _never(now)
        return now + missing_j / net_w

    @property
    def looks_again(self) -> bool:
        """Whether a rest may turn out too short, so that another look is due."""
        return self.battery.duty is None

    def begins(self) -> None:
        """The device begins a mini-batch."""
        self.computed_s = 0.0


def _never(at: float) -> InputError:
    return InputError(
        "this battery never gets back to where its device goes on",
        where="devices[*].battery.unplugged",
        got=f"{MAX_FUTILE:,} times plugged in for too short, up to {human_time(at)}",
        hint="plug it in for longer, or let it resume at less",
    )
