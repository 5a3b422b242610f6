"""The device's side of the timeline.

Actors are callbacks on SimPy events, which keeps one mini-batch at a handful of events. Rows leave
in the order of their ends: each span is written at the moment it ends. The rules are DESIGN.md's.
"""

from __future__ import annotations

from typing import Any

from mobisim.outages import outlook
from mobisim.sim.battery import Charge
from mobisim.sim.heat import Warmth
from mobisim.sim.job import Receiver
from mobisim.sim.kernel import Alarm, Callback
from mobisim.sim.link import Downlink, Uplink
from mobisim.sim.losses import Losses
from mobisim.sim.machine import DEVICE_SIDE
from mobisim.sim.scene import Scene
from mobisim.span import BACKWARD, ENCODE, FORWARD, NONE, PAUSE, STEP, WAIT, Row
from mobisim.streams import Factor, factor_stream
from mobisim.world import Batch, Group


class Device:
    """Runs the frozen backbone over its mini-batches, within its run-ahead."""

    updates = STEP  # what a device that trains by itself ends a mini-batch with

    def __init__(self, scene: Scene, group: Group, index: int, server: Receiver) -> None:
        self.scene, self.group, self.index, self.server = scene, group, index, server
        self.rank = scene.world.num_workers + index
        self.num_batches = int(scene.world.batches_of[index])
        self.first = int(scene.world.firsts[index])
        self.number = -1  # the mini-batch at hand
        self.batch = group.batches[0]
        self.part = 0
        self.handed_over = 0  # parts of it
        self.steps_started = 0
        self.joined = 0
        self.awaits_reply = False
        self.doing = NONE
        self.since = 0.0
        self.warmth = Warmth(group.heat) if group.heat is not None else None
        self.charge = _charge(group, scene.world.seed, index)
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
        self.pace = 1.0 if scene.world.paces is None else float(scene.world.paces[index])
        self.factors = 1.0, 1.0  # of the mini-batch's forwards, and of its encodings
        self.drawn_for = NONE  # the mini-batch that they are of
        self.alarm: Alarm | None = None
        self.losses: Losses | None = None
        self.may_vanish = group.vanishes
        if self.absences is not None and self.may_vanish:
            self.losses = Losses(scene, self, self.absences)
        self.uplink = Uplink(scene, self)
        self.downlink = Downlink(scene, self)

    def next_batch(self) -> None:
        """Go on to the next mini-batch, or wait for credit, or rest."""
        self.number += 1
        if self.scene.world.caches:
            self._skip_what_the_server_has_kept()
        if self.number == self.num_batches:
            self.doing = NONE
            return
        self.batch = self.numbers(self.number)
        self.part = self.handed_over = 0
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
            self._rests(until)
            return
        self.has_rested = False
        if self.charge is not None:
            self.charge.begins()
        self._forward()

    def _rests(self, until: float) -> None:
        self.doing = PAUSE
        Alarm(self.scene.env, until, self.rank, self._rested)

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
        if self.number == NONE:
            self.doing = NONE
            self.deliver()
        else:
            self._begin()

    def _forward(self) -> None:
        self.doing = FORWARD
        if self.drawn_for != self.number:
            self.drawn_for = self.number
            drawn = _next(self.forward_factor), _next(self.encode_factor)
            self.factors = drawn[0] / self.pace, drawn[1] / self.pace
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
            self.alarm = Alarm(self.scene.env, self.since + duration, self.rank, then)
        else:
            self.scene.machine.begin(DEVICE_SIDE, duration, self.rank, then)
        if self.losses is not None:
            self.losses.watch(self.since)

    def vanishes(self, back: float) -> bool:
        """It is gone until an instant; whether it or a link of its was at work."""
        computes, now = self.doing in (FORWARD, ENCODE), self.scene.env.now
        if computes:
            self._loses(now)
            self._rests(back)
        sends = self.uplink.vanishes(back)
        receives = self.downlink.vanishes()
        if receives:
            self._is_kept_waiting(now, back)
        return computes or sends or receives

    def _loses(self, now: float) -> None:
        """What it computes is lost: the mini-batch at hand begins anew."""
        assert self.alarm is not None
        self.alarm.cancel()
        if now > self.since:
            self.scene.rows.append(self.open_row(now, cut=True))
        if self.charge is not None:
            self.charge.computes(self.since, now)
        if self.warmth is not None:
            self.warmth.stops(now)
        self.since, self.part = now, 0

    def _forward_ends(self, _: Any) -> None:
        self._computed()
        self._forwarded(None)

    def _forwarded(self, _: Any) -> None:
        if self.scene.world.on_device:
            self._train(BACKWARD, self.batch.backward_s, self._backward_ends)
            return
        if self.part < self.handed_over:  # before it vanished
            self.part += 1
            self._forward()
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
        self._train(self.updates, self.batch.step_s, self._stepped)

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
        self.handed_over = self.part
        if self.losses is not None:
            self.losses.progresses()
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
        """The side network sets out to this device, or will once it is back."""
        now = self.scene.env.now
        back = self.absences.over(now) if self.may_vanish and self.absences is not None else now
        if back > now:
            self._is_kept_waiting(now, back)
        else:
            self.downlink.deliver()

    def _is_kept_waiting(self, now: float, back: float) -> None:
        """The side network sets out when it is back."""
        self.number, self.since = NONE, now
        self._rests(back)

    def replies(self, number: int, batch: Batch) -> None:
        """A mini-batch's reply sets out to this device."""
        self.downlink.reply(number, batch)


def _charge(group: Group, seed: int, index: int) -> Charge | None:
    """The battery's charge, where a low one changes what the device does."""
    battery = group.battery
    if battery is None:
        return None
    assert group.power is not None
    windows = battery.unplugged
    unplugged = outlook(windows, seed, f"device-{index}/unplugged") if windows else None
    return Charge(battery, group.power, unplugged)


def _next(factor: Factor | None) -> float:
    return factor() if factor is not None else 1.0
