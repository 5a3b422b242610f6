"""A device's battery on the timeline: its charge, and the rests that a low one asks for."""

from __future__ import annotations

from mobisim.cost.energy import Battery, Power


class Charge:
    """Follows the charge of one battery from look to look; DESIGN.md says when it is looked at."""

    def __init__(self, battery: Battery, power: Power) -> None:
        self.battery, self.power = battery, power
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
        charge = self.charge_j + net_w * (now - self.looked_at) - self.drawn_j
        self.charge_j = min(battery.capacity_j, charge)
        self.looked_at, self.drawn_j = now, 0.0
        if self.charge_j >= battery.low_j:
            return now
        if battery.duty is None:
            return now + (battery.resume_j - self.charge_j) / net_w
        return max(now, self.computed_until + self.computed_s * (1 / battery.duty - 1))

    @property
    def looks_again(self) -> bool:
        """Whether a rest may turn out too short, so that another look is due."""
        return self.battery.duty is None

    def begins(self) -> None:
        """The device begins a mini-batch."""
        self.computed_s = 0.0
