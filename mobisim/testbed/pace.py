"""When a link that the sender limits has carried a message: the very rules of the timeline."""

from __future__ import annotations

from typing import Protocol

from mobisim.channel import Channel, carrier
from mobisim.units import BITS_PER_BYTE


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

    def __init__(self, channel: Channel, bits_per_s: float, seed: int, device: int) -> None:
        self.bits_per_s = bits_per_s
        self._carrier = carrier(channel, seed, device)

    def end(self, begun: float, num_bytes: float) -> float:
        """When a message has been carried."""
        return self._carrier.end(max(begun, 0.0), round(num_bytes * BITS_PER_BYTE))


def pace_of(channel: Channel | None, bits_per_s: float, seed: int, device: int) -> Pace:
    """The pace of one direction of a device's link; without a channel its rate is constant."""
    return Steady(bits_per_s) if channel is None else Varying(channel, bits_per_s, seed, device)
