"""The device's side of the timeline.

Actors are callbacks on SimPy events, which keeps one mini-batch at a handful of events. Rows leave
in the order of their ends: each span is written at the moment it ends. The rules are DESIGN.md's.
"""

from __future__ import annotations

from typing import Any

from mobisim.outages import outlook
from mobisim.sim.battery import Charge
from mobisim.sim.heat import Warmth
from mobisim.sim.kernel import Alarm, Callback
from mobisim.sim.link import Downlink, Uplink
from mobisim.sim.machine import DEVICE_SIDE
from mobisim.sim.scene import Scene
from mobisim.sim.server import Server
from mobisim.span import BACKWARD, ENCODE, FORWARD, NONE, PAUSE, STEP, WAIT, Row
from mobisim.streams import Factor, factor_stream
from mobisim.world import Batch, Group


class Device:
    """Runs the frozen backbone over its mini-batches, within its run-ahead."""

    def __init__(self, scene: Scene, group: Group, index: int, server: Server) -> None:
        self.scene, self.group, self.index, self.server = scene, group, index, server
        self.rank = scene.world.num_workers + index
        self.uplink = Uplink(scene, self)
        self.downlink = Downlink(scene, self)
        self.num_batches = int(scene.world.batches_of[index])
        self.first = int(scene.world.firsts[index])
        self.number = -1  # the mini-batch at hand
        self.batch = group.batches[0]
        self.part = 0
        self.steps_started = 0
        self.joined = 0
        self.awaits_reply = False
        self.doing = NONE
        self.since = 0.0
        self.warmth = Warmth(group.heat) if group.heat is not None else None
        self.charge = _charge(group)
        self.has_rested = False  # as long as a low battery asks for
        seed = scene.world.seed
        self.absences = (
            outlook(group.absences, seed, f"device-{index}/absences") if group.absences else None
        )
        self.forward_factor = factor_stream(
            seed, f"device-{index}/forward", group.forward_distribution
        )
        self.encode_factor = factor_stream(
            seed, f"device-{index}/encode", group.encode_distribution
        )
        self.factors = 1.0, 1.0  # of the mini-batch's forwards, and of its encodings

    def next_batch(self) -> None:
        """Go on to the next mini-batch, or wait for credit, or rest."""
        self.number += 1
        if self.scene.world.caches:
            self._skip_what_the_server_has_kept()
        if self.number == self.num_batches:
            self.doing = NONE
            return
        self.batch = self.numbers(self.number)
        self.part = 0
        self.since = self.scene.env.now
        if self._has_credit():
            self._begin()
        else:
            self.doing = WAIT

    def numbers(self, number: int) -> Batch:
        """The times and sizes of a mini-batch."""
        order = self.group.order
        return self.group.batches[0 if order is None else order[self.first + number]]

    def _skip_what_the_server_has_kept(self) -> None:
        while self.number < self.num_batches and not self.numbers(self.number).parts:
            self.number += 1

    def _has_credit(self) -> bool:
        if self.scene.world.on_device:
            return True
        return self.steps_started > self.number - self.group.run_ahead

    def step_starts(self) -> None:
        """The server takes up this device's next mini-batch; that is credit for one more."""
        self.steps_started += 1
        if self.doing == WAIT and not self.awaits_reply and self._has_credit():
            now = self.scene.env.now
            if now > self.since:
                self.scene.rows.append(self.open_row(now, cut=False))
                self.since = now
            self._begin()

    def _begin(self) -> None:
        """Begin the mini-batch, unless the device is away or its battery asks for rest first."""
        until = self._rest_until()
        if until > self.since:
            self.doing = PAUSE
            Alarm(self.scene.env, until, self.rank, self._rested)
            return
        self.has_rested = False
        if self.charge is not None:
            self.charge.begins()
        self._forward()

    def _rest_until(self) -> float:
        """Until when the device is away, or else rests for its battery."""
        back = self.absences.over(self.since) if self.absences is not None else self.since
        if back > self.since or self.charge is None or self.has_rested:
            return back
        until = self.charge.rest_until(self.since)
        self.has_rested = until > self.since and not self.charge.looks_again
        return until

    def _rested(self, _: Any) -> None:
        self._write()
        self._begin()

    def _forward(self) -> None:
        self.doing = FORWARD
        if self.part == 0:
            self.factors = _next(self.forward_factor), _next(self.encode_factor)
        duration = self.batch.parts[self.part].forward_s * self.factors[0]
        if duration == 0.0:
            Alarm(self.scene.env, self.since, self.rank, self._forwarded)
        else:
            self._compute(duration, self._forward_ends)

    def _compute(self, duration: float, then: Callback) -> None:
        """Compute for a while: as long as stated when cold, charged and alone on the machine."""
        if self.warmth is not None:
            duration = self.warmth.lasts(self.since, duration)
        if self.scene.machine is None:
            Alarm(self.scene.env, self.since + duration, self.rank, then)
        else:
            self.scene.machine.begin(DEVICE_SIDE, duration, self.rank, then)

    def _forward_ends(self, _: Any) -> None:
        self._computed()
        self._forwarded(None)

    def _forwarded(self, _: Any) -> None:
        if self.scene.world.on_device:
            self._train(BACKWARD, self.batch.backward_s, self._backward_ends)
            return
        duration = self.batch.parts[self.part].encode_s
        if duration == 0.0:
            self._send(self.since)
            return
        self.doing = ENCODE
        self._compute(duration * self.factors[1], self._encode_ends)

    def _train(self, kind: int, duration: float, then: Callback) -> None:
        """A piece of training on the device itself, which takes as much longer as the forward."""
        self.doing = kind
        self._compute(duration * self.factors[0], then)

    def _backward_ends(self, _: Any) -> None:
        self._computed()
        self._train(STEP, self.batch.step_s, self._stepped)

    def _stepped(self, _: Any) -> None:
        self._computed()
        self.next_batch()

    def _encode_ends(self, _: Any) -> None:
        self._send(self._computed())

    def _computed(self) -> float:
        if self.charge is not None:
            self.charge.computes(self.since, self.scene.env.now)
        return self._write()

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
        elif self.batch.reply_bytes:
            self.doing, self.awaits_reply = WAIT, True
        else:
            self.next_batch()

    def replied(self) -> None:
        """What the device waits for is there: it goes back through what it trains."""
        self.awaits_reply = False
        if self.scene.env.now > self.since:
            self._write()
        self._train(BACKWARD, self.batch.backward_s, self._went_back)

    def _went_back(self, _: Any) -> None:
        self._computed()
        self.next_batch()

    def open_row(self, end: float, *, cut: bool) -> Row:
        """The row of what the device is doing."""
        within = self.doing in (FORWARD, ENCODE)
        tap = self.batch.parts[self.part].tap if within else NONE
        read = written = NONE
        if self.doing == STEP:
            read, written = self.number, NONE if cut else self.number + 1
        return (
            self.doing, self.index, self.since, end, self.index, self.number, tap,
            NONE, read, written, cut,
        )  # fmt: skip

    def deliver(self) -> None:
        """The side network sets out to this device."""
        self.downlink.deliver()

    def replies(self, number: int, batch: Batch) -> None:
        """A mini-batch's reply sets out to this device."""
        self.downlink.reply(number, batch)


def _charge(group: Group) -> Charge | None:
    """The battery's charge, where a low one changes what the device does."""
    if group.battery is None:
        return None
    assert group.power is not None
    return Charge(group.battery, group.power)


def _next(factor: Factor | None) -> float:
    return factor() if factor is not None else 1.0
