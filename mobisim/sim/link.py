"""The links' side of the timeline: a device's uplink and its downlink.

Actors are callbacks, as in device.py. The rules are DESIGN.md's.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from mobisim.sim.battery import Charge
from mobisim.sim.job import Client, Receiver
from mobisim.sim.kernel import Alarm
from mobisim.sim.losses import Losses
from mobisim.sim.medium import downlink_of, uplink_of
from mobisim.sim.scene import Scene
from mobisim.span import DOWNLOAD, LATENCY, NONE, QUEUE, REPLY, TRANSFER, Row
from mobisim.streams import Factor, factor_stream
from mobisim.world import Batch, Group, Part


class Owner(Client, Protocol):
    """A device, as its links know it."""

    rank: int
    group: Group
    server: Receiver
    uplink: Uplink
    charge: Charge | None
    losses: Losses | None

    def replied(self) -> None:
        """The reply that the device waits for is there."""
        ...


class Uplink:
    """Carries one message after the other; arrival comes a latency after the last byte left."""

    def __init__(self, scene: Scene, device: Owner) -> None:
        self.scene, self.device = scene, device
        self.actor = scene.world.actors.uplink(device.index)
        self.messages: deque[tuple[int, Batch, Part, float]] = deque()  # the head is carried
        self.since = 0.0
        self.flying: deque[tuple[int, Batch, Part, float]] = deque()
        self.last_arrival = 0.0
        group = device.group
        self.latency_s = group.latency_s
        self.holds = False  # the first message, until the device is back or the server has room
        self.medium = uplink_of(scene, device)
        self.latency_factor: Factor | None = factor_stream(
            scene.world.seed, f"uplink-{device.index}/latency", group.latency_distribution
        )

    def send(self, number: int, batch: Batch, part: Part, now: float) -> None:
        """Take a message; carry it when those before it are through."""
        self.messages.append((number, batch, part, now))
        if len(self.messages) == 1:
            self._carry_next(now)

    def is_let_in(self) -> None:
        """The server has room for the mini-batch of the first message."""
        self.holds = False
        self._carry(self.scene.env.now)

    def _carry_next(self, now: float) -> None:
        """Carry the first message, once there is room for its mini-batch."""
        _, batch, part, _ = self.messages[0]
        self.holds = part is batch.parts[0] and not self.device.server.has_room(self, part)
        if not self.holds:
            self._carry(now)

    def _carry(self, now: float) -> None:
        number, _, part, since = self.messages[0]
        if now > since:
            self.scene.rows.append(self._row(QUEUE, since, now, number, part))
        self.since = now
        self.medium.carry(now, part.num_bytes, part.transfer_s, self._carried)
        if self.device.losses is not None:
            self.device.losses.watch(now)

    def vanishes(self, back: float) -> bool:
        """The link is gone until an instant: what it carries is lost, and carried anew then."""
        if not self.messages:
            return False
        now = self.scene.env.now
        number, batch, part, _ = self.messages[0]
        if now > self.since:
            carried = self.medium.carried(now)
            row = self._row(TRANSFER, self.since, now, number, part, carried, cut=True)
            self.scene.rows.append(row)
            if self.device.charge is not None:
                self.device.charge.sends(now - self.since, carried)
        self.medium.stop()
        self.messages[0] = number, batch, part, now
        self.holds = True
        Alarm(self.scene.env, back, self.device.rank, self._is_back)
        return True

    def _is_back(self, _: Any) -> None:
        self.holds = False
        self._carry(self.scene.env.now)

    def _carried(self, _: Any) -> None:
        now = self.scene.env.now
        if self.device.losses is not None:
            self.device.losses.progresses()
        number, batch, part, _since = self.messages.popleft()
        self.scene.rows.append(self._row(TRANSFER, self.since, now, number, part, part.num_bytes))
        if self.device.charge is not None:
            self.device.charge.sends(now - self.since, part.num_bytes)
        if self.messages:
            self._carry_next(now)
        latency = self.latency_s
        if latency == 0.0:
            self.device.server.arrives(self.device, number, batch, now)
            return
        if self.latency_factor is not None:
            latency *= self.latency_factor()
        # Messages of one link arrive in the order in which they left, as on one TCP connection.
        self.last_arrival = max(now + latency, self.last_arrival)
        self.flying.append((number, batch, part, now))
        Alarm(self.scene.env, self.last_arrival, self.device.rank, self._lands)

    def _lands(self, _: Any) -> None:
        now = self.scene.env.now
        number, batch, part, since = self.flying.popleft()
        self.scene.rows.append(self._row(LATENCY, since, now, number, part))
        self.device.server.arrives(self.device, number, batch, now)

    def _row(
        self, kind: int, start: float, end: float, number: int, part: Part,
        num_bytes: int = NONE, *, cut: bool = False,
    ) -> Row:  # fmt: skip
        return (
            kind, self.actor, start, end, self.device.index, number, part.tap,
            num_bytes, part.version, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The rows of what is on the link, queued for it and in flight."""
        first = 0 if self.holds else 1
        carried, queued = list(self.messages)[:first], list(self.messages)[first:]
        size = self.medium.carried(end) if carried else NONE
        return [
            *(self._row(TRANSFER, self.since, end, n, p, size, cut=True) for n, _, p, _ in carried),
            *(self._row(QUEUE, s, end, n, p, cut=True) for n, _, p, s in queued),
            *(self._row(LATENCY, s, end, n, p, cut=True) for n, _, p, s in self.flying),
        ]


class Downlink:
    """Brings a device its replies, and what trained once the last step is done."""

    version = NONE  # of what it carries

    def __init__(self, scene: Scene, device: Owner) -> None:
        self.scene, self.device = scene, device
        self.actor = scene.world.actors.downlink(device.index)
        self.kind = self.number = NONE
        self.num_bytes = 0
        self.since = 0.0
        self.is_due = False
        self.medium = downlink_of(scene, device)

    def deliver(self) -> None:
        """Set out with what trained, once a reply that is under way is there."""
        self.is_due = self.kind != NONE
        if self.is_due:
            return
        group = self.device.group
        self._carry(DOWNLOAD, NONE, group.download_bytes, group.download_s)

    def reply(self, number: int, batch: Batch) -> None:
        """Set out with what the device waits for."""
        self._carry(REPLY, number, batch.reply_bytes, batch.reply_s)

    def _carry(self, kind: int, number: int, num_bytes: int, seconds: float) -> None:
        self.kind, self.number, self.num_bytes = kind, number, num_bytes
        self.since = self.scene.env.now
        self.medium.carry(self.since, num_bytes, seconds, self._carried)
        if self.device.losses is not None:
            self.device.losses.watch(self.since)

    def vanishes(self) -> bool:
        """The link is gone: what it carries is lost, but for what travels on already."""
        if self.kind != DOWNLOAD:
            return False
        now = self.scene.env.now
        self.scene.rows.extend(self.open_rows(now))
        self.medium.stop()
        self.kind = NONE
        return True

    def _carried(self, _: Any) -> None:
        if self.device.losses is not None:
            self.device.losses.progresses()
        self._write(self.num_bytes)
        latency = self.device.group.latency_s
        if latency == 0.0:
            self._arrives()
            return
        factor = self.device.uplink.latency_factor
        if factor is not None:
            latency *= factor()
        self.kind = LATENCY
        Alarm(self.scene.env, self.since + latency, self.device.rank, self._lands)

    def _lands(self, _: Any) -> None:
        self._write(NONE)
        self._arrives()

    def _arrives(self) -> None:
        self.kind = NONE
        if self.number != NONE:
            self.device.replied()
        if self.is_due:
            self.deliver()

    def _write(self, num_bytes: int) -> None:
        now = self.scene.env.now
        self.scene.rows.append(self._row(now, num_bytes, cut=False))
        self.since = now

    def _row(self, end: float, num_bytes: int, *, cut: bool) -> Row:
        return (
            self.kind, self.actor, self.since, end, self.device.index, self.number, NONE,
            num_bytes, self.version, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The row of what is under way."""
        if self.kind == NONE or self.since == end:
            return []
        return [
            self._row(end, NONE if self.kind == LATENCY else self.medium.carried(end), cut=True)
        ]
