"""Energy of a device from its power states and its radio."""

from __future__ import annotations

from dataclasses import dataclass

from mobisim.scenario.profiles import ConstantLink
from mobisim.scenario.schema import DeviceGroup


@dataclass(frozen=True)
class Energy:
    """Joules of one device: idle all along, computing on top, the radio while it sends."""

    idle: float
    compute: float
    radio: float

    @property
    def total(self) -> float:
        """All joules."""
        return self.idle + self.compute + self.radio


def device_energy(
    group: DeviceGroup, makespan_s: float, busy_s: float, sending_s: float
) -> Energy | None:
    """What one device of `group` uses; None where its profile states no power."""
    profile = group.profile
    if profile.idle_power is None or profile.load_power is None:
        return None
    idle, load = profile.idle_power.value, profile.load_power.value
    return Energy(
        idle=idle * makespan_s,
        compute=max(load - idle, 0.0) * busy_s,
        radio=_radio_power(group.link) * sending_s,
    )


def _radio_power(link: ConstantLink) -> float:
    if link.radio is None:
        return 0.0
    return link.radio.base_power.value + link.radio.power_per_rate.value * link.uplink.value
