"""What carries a device's messages: a link of its own, constant or not, or its share of a cell."""

from __future__ import annotations

from typing import Protocol

from mobisim.channel import Channel, carrier, through
from mobisim.sim.cell import Cell, Member
from mobisim.sim.kernel import Alarm, Callback
from mobisim.sim.scene import Scene
from mobisim.units import BITS_PER_BYTE
from mobisim.world import Group


class Medium(Protocol):
    """One direction of a link; it carries one message at a time."""

    def carry(self, now: float, num_bytes: int, seconds: float, then: Callback) -> None:
        """Begin to carry a message; `then` is called when it ends.

        `seconds` is what it takes at the group's rate, should that be constant.
        """
        ...

    def carried(self, by: float) -> int:
        """How many bytes of the message that is under way are through by an instant."""
        ...

    def stop(self) -> None:
        """Carry no more of the message; the next one begins as if it had never been."""
        ...


class Place(Protocol):
    """A device, as a medium knows it."""

    index: int
    rank: int
    group: Group


def uplink_of(scene: Scene, device: Place) -> Medium:
    """What carries a device's uploads."""
    group = device.group
    return _medium(scene, device, group.uplink, group.uplink_bits_per_s, scene.uplinks)


def downlink_of(scene: Scene, device: Place) -> Medium:
    """What carries a device's downloads."""
    group = device.group
    return _medium(scene, device, group.downlink, group.downlink_bits_per_s, scene.downlinks)


def _medium(
    scene: Scene, device: Place, channel: Channel | None, bits_per_s: float, cells: list[Cell]
) -> Medium:
    group, rates = device.group, scene.world.rates
    if group.cell is not None:
        return Member(cells[group.cell], device.index, device.rank, group.weight, bits_per_s)
    if channel is not None:
        return Varying(scene, device, channel)
    return Steady(scene, device, None if rates is None else bits_per_s * float(rates[device.index]))


class Steady:
    """A link of the device's own, of constant rate: the group's, unless devices differ."""

    __slots__ = ("alarm", "bits_per_s", "env", "num_bytes", "rank", "seconds", "since")

    def __init__(self, scene: Scene, device: Place, bits_per_s: float | None) -> None:
        self.env, self.rank, self.bits_per_s = scene.env, device.rank, bits_per_s

    def carry(self, now: float, num_bytes: int, seconds: float, then: Callback) -> None:
        """Begin to carry a message; `then` is called when it ends."""
        if self.bits_per_s is not None:
            seconds = num_bytes * BITS_PER_BYTE / self.bits_per_s
        self.since, self.num_bytes, self.seconds = now, num_bytes, seconds
        self.alarm = Alarm(self.env, now + seconds, self.rank, then)

    def carried(self, by: float) -> int:
        """How many bytes of the message that is under way are through by an instant."""
        return through(self.num_bytes, by, self._end)

    def _end(self, num_bytes: int) -> float:
        return self.since + self.seconds * num_bytes / self.num_bytes

    def stop(self) -> None:
        """Carry no more of the message."""
        self.alarm.cancel()


class Varying:
    """A link of the device's own, whose rate varies."""

    __slots__ = ("alarm", "before", "carrier", "env", "num_bytes", "rank", "since")

    def __init__(self, scene: Scene, device: Place, channel: Channel) -> None:
        self.env, self.rank = scene.env, device.rank
        self.carrier = carrier(channel, scene.world.seed, device.index)

    def carry(self, now: float, num_bytes: int, seconds: float, then: Callback) -> None:  # noqa: ARG002 - at a constant rate
        """Begin to carry a message; `then` is called when it ends."""
        self.since, self.num_bytes, self.before = now, num_bytes, self.carrier.copy()
        end = self.carrier.end(now, num_bytes * BITS_PER_BYTE)
        self.alarm = Alarm(self.env, end, self.rank, then)

    def carried(self, by: float) -> int:
        """How many bytes of the message that is under way are through by an instant."""
        return through(self.num_bytes, by, self._end)

    def _end(self, num_bytes: int) -> float:
        return self.before.copy().end(self.since, num_bytes * BITS_PER_BYTE)

    def stop(self) -> None:
        """Carry no more of the message; TCP begins as at first."""
        self.alarm.cancel()
        self.carrier = self.before.interrupted()
