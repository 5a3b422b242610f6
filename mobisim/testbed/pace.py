"""When a link that the sender limits has carried a message: the very rules of the timeline."""

from __future__ import annotations

from typing import Protocol

from mobisim.channel import carrier
from mobisim.units import BITS_PER_BYTE
from mobisim.world import Group


class Pace(Protocol):
    """One direction of a link, which carries one message after the other.

    Times are seconds since the run began. A message begins no earlier than the one before it.
    """

    bits_per_s: float  # in the mean

    def end(self, begun: float, num_bytes: float) -> float:
        """When a message that the link takes up at an instant has been carried."""
        ...


class Steady:
    """A constant rate."""

    def __init__(self, bits_per_s: float) -> None:
        self.bits_per_s = bits_per_s

    def end(self, begun: float, num_bytes: float) -> float:
        """When a message has been carried."""
        return begun + num_bytes * BITS_PER_BYTE / self.bits_per_s


class Varying:
    """A recorded trace, outages, slow start: whatever the link's channel says."""

    def __init__(self, group: Group, seed: int, device: int, *, up: bool) -> None:
        channel = group.uplink if up else group.downlink
        assert channel is not None
        self.bits_per_s = group.uplink_bits_per_s if up else group.downlink_bits_per_s
        self._carrier = carrier(channel, seed, device)

    def end(self, begun: float, num_bytes: float) -> float:
        """When a message has been carried."""
        return self._carrier.end(max(begun, 0.0), round(num_bytes * BITS_PER_BYTE))


def uplink_pace(group: Group, seed: int, device: int) -> Pace:
    """The pace of a device's uploads."""
    if group.uplink is None:
        return Steady(group.uplink_bits_per_s)
    return Varying(group, seed, device, up=True)


def downlink_pace(group: Group, seed: int, device: int) -> Pace:
    """The pace of a device's downloads."""
    if group.downlink is None:
        return Steady(group.downlink_bits_per_s)
    return Varying(group, seed, device, up=False)
