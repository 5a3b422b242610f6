"""What a device draws: its power states, its radio, and what a low battery means."""

from __future__ import annotations

from dataclasses import dataclass

from mobisim.scenario.profiles import Outages, Radio
from mobisim.scenario.schema import DeviceGroup


@dataclass(frozen=True)
class Power:
    """Watts of a device: idle, computing, and on top while its radio sends; a full battery in J.

    The radio draws `radio_w` while it sends and `radio_j_per_bit` for each bit.
    """

    idle_w: float
    load_w: float
    radio_w: float = 0.0
    radio_j_per_bit: float = 0.0
    battery_j: float | None = None

    def transfer_j(self, seconds: float, num_bytes: float) -> float:
        """Joules of the radio for carrying bytes up."""
        return self.radio_w * seconds + self.radio_j_per_bit * (num_bytes * 8)


@dataclass(frozen=True)
class Battery:
    """A battery on whose charge it depends when a device works.

    Below `low_j` it rests until `resume_j`, or, where `duty` is given, works that share of time.
    While it is `unplugged` its charger gives nothing.
    """

    capacity_j: float
    charge_j: float
    charger_w: float
    low_j: float
    resume_j: float
    duty: float | None = None
    unplugged: Outages | None = None


def power_of(group: DeviceGroup) -> Power | None:
    """The power states of a group's devices; None where their profile states none."""
    profile, radio = group.profile, group.link.radio or _NO_RADIO
    if profile.idle_power is None or profile.load_power is None:
        return None
    return Power(
        idle_w=profile.idle_power.value,
        load_w=profile.load_power.value,
        radio_w=radio.base_power.value,
        radio_j_per_bit=radio.power_per_rate.value,
        battery_j=profile.battery.value if profile.battery is not None else None,
    )


_NO_RADIO = Radio.model_validate({"base_power": 0, "power_per_rate": 0})


def battery_of(group: DeviceGroup) -> Battery | None:
    """The battery of a group's devices, where a low one changes what they do."""
    use, capacity = group.battery, group.profile.battery
    if use is None or use.when_low is None or capacity is None:
        return None
    rule = use.when_low
    return Battery(
        capacity_j=capacity.value,
        charge_j=use.charge * capacity.value,
        charger_w=use.charger,
        low_j=rule.below * capacity.value,
        resume_j=(rule.resume or rule.below) * capacity.value,
        duty=rule.duty,
        unplugged=use.unplugged,
    )
