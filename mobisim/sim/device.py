"""The device's side of the timeline: the device itself, its uplink and its downlink.

Actors are callbacks on SimPy events, which keeps one mini-batch at a handful of events. Rows leave
in the order of their ends: each span is written at the moment it ends. The rules are DESIGN.md's.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from mobisim.sim.kernel import Alarm, Scene
from mobisim.sim.server import Server
from mobisim.sim.streams import Factor, factor_stream
from mobisim.span import DOWNLOAD, ENCODE, FORWARD, LATENCY, NONE, QUEUE, TRANSFER, WAIT, Row
from mobisim.world import Batch, Group, Part


class Device:
    """Runs the frozen backbone over its mini-batches, within its run-ahead."""

    def __init__(self, scene: Scene, group: Group, index: int, server: Server) -> None:
        self.scene, self.group, self.index, self.server = scene, group, index, server
        self.rank = scene.world.num_workers + index
        self.uplink = Uplink(scene, self)
        self.downlink = Downlink(scene, self)
        self.number = -1  # the mini-batch at hand
        self.batch = group.batches[0]
        self.part = 0
        self.steps_started = 0
        self.doing = NONE
        self.since = 0.0
        seed = scene.world.seed
        self.forward_factor = factor_stream(
            seed, f"device-{index}/forward", group.forward_distribution
        )
        self.encode_factor = factor_stream(
            seed, f"device-{index}/encode", group.encode_distribution
        )

    def next_batch(self) -> None:
        """Go on to the next mini-batch, or wait for credit, or rest."""
        self.number += 1
        if self.number == self.group.num_batches:
            self.doing = NONE
            return
        order = self.group.order
        if order is not None:
            self.batch = self.group.batches[order[self.number]]
        self.part = 0
        self.since = self.scene.env.now
        if self._has_credit():
            self._forward()
        else:
            self.doing = WAIT

    def _has_credit(self) -> bool:
        return self.steps_started > self.number - self.group.run_ahead

    def step_starts(self) -> None:
        """The server takes up this device's next mini-batch; that is credit for one more."""
        self.steps_started += 1
        if self.doing == WAIT and self._has_credit():
            now = self.scene.env.now
            if now > self.since:
                self.scene.rows.append(self.open_row(now, cut=False))
                self.since = now
            self._forward()

    def _forward(self) -> None:
        self.doing = FORWARD
        duration = self.batch.parts[self.part].forward_s
        if self.forward_factor is not None:
            duration *= self.forward_factor()
        Alarm(self.scene.env, self.since + duration, self.rank, self._forward_ends)

    def _forward_ends(self, _: Any) -> None:
        now = self._write()
        duration = self.batch.parts[self.part].encode_s
        if duration == 0.0:
            self._send(now)
            return
        if self.encode_factor is not None:
            duration *= self.encode_factor()
        self.doing = ENCODE
        Alarm(self.scene.env, now + duration, self.rank, self._encode_ends)

    def _encode_ends(self, _: Any) -> None:
        self._send(self._write())

    def _write(self) -> float:
        now = self.scene.env.now
        self.scene.rows.append(self.open_row(now, cut=False))
        self.since = now
        return now

    def _send(self, now: float) -> None:
        parts = self.batch.parts
        self.uplink.send(self.number, self.batch, parts[self.part], now)
        self.part += 1
        if self.part < len(parts):
            self._forward()
        else:
            self.next_batch()

    def open_row(self, end: float, *, cut: bool) -> Row:
        """The row of what the device is doing."""
        tap = NONE if self.doing == WAIT else self.batch.parts[self.part].tap
        return (
            self.doing, self.index, self.since, end, self.index, self.number, tap,
            NONE, NONE, NONE, cut,
        )  # fmt: skip

    def deliver(self) -> None:
        """The side network sets out to this device."""
        self.downlink.carry()


class Uplink:
    """Carries one message after the other; arrival comes a latency after the last byte left."""

    def __init__(self, scene: Scene, device: Device) -> None:
        self.scene, self.device = scene, device
        self.actor = scene.world.actors.uplink(device.index)
        self.messages: deque[tuple[int, Batch, Part, float]] = deque()  # the head is carried
        self.since = 0.0
        self.flying: deque[tuple[int, Batch, Part, float]] = deque()
        self.last_arrival = 0.0
        group = device.group
        self.latency_s = group.latency_s
        self.latency_factor: Factor | None = factor_stream(
            scene.world.seed, f"uplink-{device.index}/latency", group.latency_distribution
        )

    def send(self, number: int, batch: Batch, part: Part, now: float) -> None:
        """Take a message; carry it when those before it are through."""
        self.messages.append((number, batch, part, now))
        if len(self.messages) == 1:
            self._carry(now)

    def _carry(self, now: float) -> None:
        number, _, part, since = self.messages[0]
        if now > since:
            self.scene.rows.append(self._row(QUEUE, since, now, number, part))
        self.since = now
        Alarm(self.scene.env, now + part.transfer_s, self.device.rank, self._carried)

    def _carried(self, _: Any) -> None:
        now = self.scene.env.now
        number, batch, part, _since = self.messages.popleft()
        self.scene.rows.append(self._row(TRANSFER, self.since, now, number, part, part.num_bytes))
        if self.messages:
            self._carry(now)
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
            num_bytes, NONE, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The rows of what is on the link, queued for it and in flight."""
        carried = list(self.messages)[:1]
        return [
            *(self._row(TRANSFER, self.since, end, n, p, cut=True) for n, _, p, _ in carried),
            *(self._row(QUEUE, s, end, n, p, cut=True) for n, _, p, s in list(self.messages)[1:]),
            *(self._row(LATENCY, s, end, n, p, cut=True) for n, _, p, s in self.flying),
        ]


class Downlink:
    """Brings the side network to a device once the last step is done."""

    def __init__(self, scene: Scene, device: Device) -> None:
        self.scene, self.device = scene, device
        self.actor = scene.world.actors.downlink(device.index)
        self.kind = NONE
        self.since = 0.0

    def carry(self) -> None:
        """Set out with the side network."""
        self.kind = DOWNLOAD
        self.since = self.scene.env.now
        arrival = self.since + self.device.group.download_s
        Alarm(self.scene.env, arrival, self.device.rank, self._carried)

    def _carried(self, _: Any) -> None:
        self._write(self.device.group.download_bytes)
        latency = self.device.group.latency_s
        if latency == 0.0:
            self.kind = NONE
            return
        factor = self.device.uplink.latency_factor
        if factor is not None:
            latency *= factor()
        self.kind = LATENCY
        Alarm(self.scene.env, self.since + latency, self.device.rank, self._lands)

    def _lands(self, _: Any) -> None:
        self._write(NONE)
        self.kind = NONE

    def _write(self, num_bytes: int) -> None:
        now = self.scene.env.now
        self.scene.rows.append(self._row(now, num_bytes, cut=False))
        self.since = now

    def _row(self, end: float, num_bytes: int, *, cut: bool) -> Row:
        return (
            self.kind, self.actor, self.since, end, self.device.index, NONE, NONE,
            num_bytes, NONE, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The row of what is under way."""
        return [] if self.kind == NONE else [self._row(end, NONE, cut=True)]
