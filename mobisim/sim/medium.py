"""What carries messages where a link is more than a constant rate of its own."""

from __future__ import annotations

from typing import Protocol

from mobisim.channel import Channel, carrier
from mobisim.sim.cell import Cell, Member
from mobisim.sim.kernel import Alarm, Callback
from mobisim.sim.scene import Scene
from mobisim.world import Group


class Medium(Protocol):
    """One direction of a link; it carries one message at a time."""

    def carry(self, now: float, num_bits: int, then: Callback) -> None:
        """Begin to carry a message; `then` is called when it ends."""
        ...

    def stop(self) -> None:
        """Carry no more of the message, as if it had never been."""
        ...


class Place(Protocol):
    """A device, as a medium knows it."""

    index: int
    rank: int
    group: Group


def own_rate(scene: Scene, device: Place, bits_per_s: float) -> float | None:
    """The rate of a device's link where devices differ, from its group's."""
    rates = scene.world.rates
    return None if rates is None else bits_per_s * float(rates[device.index])


def uplink_of(scene: Scene, device: Place) -> Medium | None:
    """What carries a device's uploads; None for a constant rate of its own."""
    group = device.group
    if group.cell is not None:
        return _member(device, scene.uplinks[group.cell], group.uplink_bits_per_s)
    return Alone(scene, device, group.uplink) if group.uplink is not None else None


def downlink_of(scene: Scene, device: Place) -> Medium | None:
    """What carries a device's downloads; None for a constant rate of its own."""
    group = device.group
    if group.cell is not None:
        return _member(device, scene.downlinks[group.cell], group.downlink_bits_per_s)
    return Alone(scene, device, group.downlink) if group.downlink is not None else None


def _member(device: Place, cell: Cell, bits_per_s: float) -> Member:
    return Member(cell, device.index, device.rank, device.group.weight, bits_per_s)


class Alone:
    """A medium of the device's own, whose rate varies."""

    def __init__(self, scene: Scene, device: Place, channel: Channel) -> None:
        self.env, self.rank = scene.env, device.rank
        self.carrier = carrier(channel, scene.world.seed, device.index)
        self.before = 0
        self.alarm: Alarm | None = None

    def carry(self, now: float, num_bits: int, then: Callback) -> None:
        """Begin to carry a message; `then` is called when it ends."""
        self.before = self.carrier.mark
        self.alarm = Alarm(self.env, self.carrier.end(now, num_bits), self.rank, then)

    def stop(self) -> None:
        """Carry no more of the message, as if it had never been."""
        assert self.alarm is not None
        self.alarm.cancel()
        self.carrier.back_to(self.before)
