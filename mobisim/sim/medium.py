"""What carries messages where a link is more than a constant rate of its own."""

from __future__ import annotations

from typing import Protocol

from mobisim.channel import Channel, carrier
from mobisim.sim.kernel import Alarm, Callback
from mobisim.sim.scene import Scene


class Medium(Protocol):
    """One direction of a link; it carries one message at a time."""

    def carry(self, now: float, num_bits: int, then: Callback) -> None:
        """Begin to carry a message; `then` is called when it ends."""
        ...


class Place(Protocol):
    """A device, as a medium knows it."""

    index: int
    rank: int


def medium_of(scene: Scene, device: Place, channel: Channel | None) -> Medium | None:
    """The medium of one direction of a device's link; None where its rate is constant."""
    return Alone(scene, device, channel) if channel is not None else None


class Alone:
    """A medium of the device's own, whose rate varies."""

    def __init__(self, scene: Scene, device: Place, channel: Channel) -> None:
        self.env, self.rank = scene.env, device.rank
        self.carrier = carrier(channel, scene.world.seed, device.index)

    def carry(self, now: float, num_bits: int, then: Callback) -> None:
        """Begin to carry a message; `then` is called when it ends."""
        Alarm(self.env, self.carrier.end(now, num_bits), self.rank, then)
