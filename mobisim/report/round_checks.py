"""What invariants ask of rounds: that each version is the average of what came in time, once each.

Checked on the spans alone, in memory that follows the number of devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mobisim.span import (
    BACKWARD,
    DEVICE,
    DOWNLINK,
    DOWNLOAD,
    FORWARD,
    LATENCY,
    MERGE,
    NONE,
    STEP,
    TRANSFER,
    UPDATE,
    UPLINK,
    Span,
    SpanColumns,
)
from mobisim.world import World

_WATCHED = (BACKWARD, DOWNLOAD, LATENCY, FORWARD, UPDATE, TRANSFER, MERGE, STEP)


class Breach(NamedTuple):
    """A broken invariant, and the span that breaks it."""

    number: int
    span: Span


class RoundChecks:
    """Follows the rounds of a run."""

    def __init__(self, world: World) -> None:
        assert world.rounds is not None
        self.world, self.rounds = world, world.rounds
        self.learns_with = BACKWARD if world.replies else UPDATE  # what ends a mini-batch
        self.roles = world.actors.roles
        self.exchanges = [world.groups[group].exchange for group in world.group_of]
        self.download_bytes = np.array([g.download_bytes for g in world.groups])[world.group_of]
        self.latency_s = np.array([group.latency_s for group in world.groups])[world.group_of]
        nothing = np.full(world.actors.num_devices, NONE, np.int64)
        self.has = nothing.copy()  # the newest version of each device
        self.updated = nothing.copy()  # its last mini-batch
        self.learned = nothing.copy()  # the last mini-batch of the last round that it went through
        self.version, self.begun_s = 0, 0.0
        self.arrived: dict[int, tuple[float, int]] = {}  # of this round: when, and which message
        self.merged: list[int] = []
        self.first_merge_s = np.inf

    def breaches(self, columns: SpanColumns) -> Iterator[Breach]:
        """What is wrong with a further block."""
        watched = np.isin(columns.kind, _WATCHED)
        for span in columns[watched & ~columns.cut].spans():
            number = self._broken(span)
            if number:
                yield Breach(number, span)

    def _broken(self, span: Span) -> int:
        """The number of the invariant that a span breaks; 0 where it breaks none."""
        role = self.roles[span.actor]
        if span.kind == MERGE:
            return self._merge(span)
        if span.kind == STEP:
            return self._step(span)
        if role == DOWNLINK:
            return self._down(span)
        if role == UPLINK:
            return self._up(span) if span.version_read != NONE else 0
        return self._work(span) if role == DEVICE else 0

    def _down(self, span: Span) -> int:
        """A version goes to whom the round selected, once it is there; a last one when all is."""
        if span.version_read == NONE and span.batch != NONE:
            return 0  # a reply
        exchange = self.exchanges[span.device]
        assert exchange is not None
        last = span.version_read == NONE
        size = self.download_bytes[span.device] if last else exchange.down_bytes
        if span.kind == DOWNLOAD and span.num_bytes != size:
            return 6
        if last:
            return 0 if self.version == self.rounds.count else 3
        if not self._is_selected(span.device, span.version_read):
            return 14
        if span.kind == LATENCY or not self.latency_s[span.device]:
            self.has[span.device] = span.version_read
        return 0 if self.version >= span.version_read else 3

    def _work(self, span: Span) -> int:
        """A device that has a version goes through the mini-batches of a round in their order."""
        device, local = span.device, self.rounds.local[span.device]
        if self.has[device] == NONE:
            return 3
        if span.kind != self.learns_with:
            return 0
        if span.batch % local and span.batch != self.updated[device] + 1:
            return 1
        self.updated[device] = span.batch
        if (span.batch + 1) % local == 0:
            self.learned[device] = span.batch
        return 0

    def _up(self, span: Span) -> int:
        """What it sends has been learned, from a version that it had."""
        exchange = self.exchanges[span.device]
        if span.batch > self.learned[span.device] or span.version_read > self.has[span.device]:
            return 3
        assert exchange is not None
        if span.kind == TRANSFER and span.num_bytes != exchange.up_bytes:
            return 6
        lands = span.kind == LATENCY or not self.latency_s[span.device]
        if lands and self._counts(span.version_read):
            self.arrived[span.device] = span.end, span.batch
        return 0

    def _counts(self, version: int) -> bool:
        return version == self.version and not self.merged

    def _merge(self, span: Span) -> int:
        """Of a device of this round, after it arrived with all that the round asked of it."""
        if not self.merged:
            self.first_merge_s = span.start
        self.merged.append(span.device)
        end, number = self.arrived.get(span.device, (np.inf, NONE))
        local = self.rounds.local[span.device]
        whole = number == span.batch and (span.batch + 1) % local == 0
        if span.version_read != self.version or not whole:
            return 14
        return 0 if end <= span.start else 3

    def _step(self, span: Span) -> int:
        """All that came before the round was over, each once."""
        came = {device for device, (end, _) in self.arrived.items() if end < self.first_merge_s}
        fine = len(self.merged) == len(set(self.merged)) and came <= set(self.merged)
        fine &= span.device == NONE and span.batch == self.version and self._is_enough()
        self.version, self.begun_s = self.version + 1, span.end
        self.arrived.clear()
        self.merged.clear()
        return 0 if fine else 14

    def _is_enough(self) -> bool:
        """As many as the round waits for; or its time was over, and there was one at least."""
        deadline_s, came = self.rounds.deadline_s, len(self.merged)
        if deadline_s is None or came >= self.rounds.awaited:
            return came == self.rounds.awaited
        return came > 0 and self.first_merge_s >= self.begun_s + deadline_s

    def _is_selected(self, device: int, version: int) -> bool:
        selected = self.rounds.selected[version]
        at = int(np.searchsorted(selected, device))
        return at < len(selected) and bool(selected[at] == device)


class BufferChecks(RoundChecks):
    """Follows rounds that are buffered: a device is called once for each update that is taken in.

    Every so many updates, in the order in which they arrived, make a version.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        assert self.rounds.calls is not None
        self.at_work, self.line = self.rounds.calls.at_work, set(self.rounds.calls.line.tolist())
        self.called: set[int] = set()
        self.read: list[int] = []  # by what was merged since the last step

    def _down(self, span: Span) -> int:
        if span.kind == DOWNLOAD and span.version_read != NONE:
            if span.device in self.called:
                return 14
            self.called.add(span.device)
        return super()._down(span)

    def _is_selected(self, device: int, version: int) -> bool:  # noqa: ARG002
        return device in self.line and len(self.called) <= self.at_work

    def _counts(self, version: int) -> bool:
        return version <= self.version

    def _merge(self, span: Span) -> int:
        device, local = span.device, self.rounds.local[span.device]
        end, number = self.arrived.pop(device, (np.inf, NONE))
        whole = number == span.batch and (span.batch + 1) % local == 0
        first = all(end <= other for other, _ in self.arrived.values())
        if not whole or not first or span.version_read != self.has[device]:
            return 14
        self.called.discard(device)
        self.read.append(span.version_read)
        return 0 if end <= span.start else 3

    def _step(self, span: Span) -> int:
        fine = span.device == NONE and span.batch == self.version
        fine &= len(self.read) == self.rounds.awaited and span.version_read == min(self.read)
        self.version += 1
        self.read.clear()
        return 0 if fine else 14


def round_checks(world: World) -> RoundChecks:
    """What follows the rounds of a world."""
    assert world.rounds is not None
    return RoundChecks(world) if world.rounds.calls is None else BufferChecks(world)
