"""The server's view of one device: what is expected of it, put together, timed and turned to rows.

Nothing here touches a socket. Every size is known before a byte is read, so that a device can make
the server hold no more than its run-ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mobisim.span import LATENCY, NONE, QUEUE, TRANSFER, WAIT, Row
from mobisim.testbed.frames import Chunk, Note, RubbishError
from mobisim.testbed.outbox import Place
from mobisim.testbed.plan import Plan


@dataclass(frozen=True)
class Arrival:
    """A message that is whole: its bytes, when the last of them came, when it counts as here."""

    device: int
    batch: int
    part: int
    body: bytes
    received_at: float
    lands_at: float


class Inbox:
    """What one device has sent."""

    def __init__(self, plan: Plan, device: int, rows: Callable[[Row], None]) -> None:
        self.plan, self.device, self._rows = plan, device, rows
        self.group = plan.group(device)
        self.expected: Place = (0, 0)
        self.taken_up = 0
        self._buffer = bytearray()
        self.zero = 0.0  # when the run began
        self._taken_at: list[float] = []  # by mini-batch: each is credit for one run-ahead later
        self._received_at = 0.0  # of the message before, since the run began
        self._free_at = 0.0  # when the device was done with what it told of last
        actors = plan.prepared.world.actors
        self._uplink, self._num_parts = actors.uplink(device), plan.num_parts

    @property
    def offset(self) -> int:
        """Bytes of the expected message that are here."""
        return len(self._buffer)

    def begin_with(self, batch: int) -> None:
        """Mini-batches before this one are known already."""
        self.expected, self.taken_up = (batch, 0), batch
        self._taken_at = (self._taken_at + [0.0] * batch)[:batch]
        self._buffer = bytearray()

    def remember(self, rows: Iterable[Row]) -> None:
        """What was recorded before: neither link nor device can have been at two things at once."""
        for _, actor, _, end, *_ in rows:
            if actor == self._uplink:
                self._received_at = max(self._received_at, end)
            elif actor == self.device:
                self._free_at = max(self._free_at, end)

    def forget_fragment(self) -> None:
        """The device begins anew: half a message is of no use."""
        self._buffer = bytearray()

    def take_up(self, at: float) -> None:
        """The next mini-batch is taken up: credit for one more."""
        self.taken_up += 1
        self._taken_at.append(at)

    def add(self, chunk: Chunk, received_at: float) -> Arrival | None:
        """Take a chunk that came at a time of the clock; the message that it completes.

        What was here before is ignored, and so is what comes after a gap: the device asks, and
        sends it again.

        Raises:
            RubbishError: more than the message may have, or further ahead than the device may be.
        """
        self._check_window(chunk)
        place = chunk.batch, chunk.part
        if (place, chunk.offset) != (self.expected, self.offset):
            return None
        size = self.plan.num_bytes(*place)
        whole = self.offset + len(chunk.body) == size
        if self.offset + len(chunk.body) > size or whole != (chunk.notes is not None):
            raise RubbishError(f"a message of other than {size} bytes")
        self._buffer += chunk.body
        return self._completed(chunk, received_at - self.zero) if whole else None

    def _check_window(self, chunk: Chunk) -> None:
        most = min(self.taken_up + self.group.run_ahead, self.plan.num_batches)
        if chunk.batch >= most or chunk.part >= self._num_parts:
            raise RubbishError(
                f"mini-batch {chunk.batch}, part {chunk.part}, which is not asked for yet"
            )

    def _completed(self, chunk: Chunk, received_at: float) -> Arrival:
        body, self._buffer = bytes(self._buffer), bytearray()
        batch, part = self.expected
        last = part + 1 == self._num_parts
        self.expected = (batch + 1, 0) if last else (batch, part + 1)
        self._tell(chunk, received_at)
        lands_at = self.zero + received_at + self.group.latency_s
        return Arrival(self.device, batch, part, body, received_at, lands_at)

    def _tell(self, chunk: Chunk, received_at: float) -> None:
        """The rows of a message: the device's own, its wait for the link, and its transfer."""
        tap = self.plan.tap(chunk.part)
        size = self.plan.wire_bytes(self.device, chunk.batch, chunk.part)
        for note in chunk.notes or ():
            self._tell_note(note, chunk, received_at)
        handed_at = min(max(chunk.handed_at - self.zero, self._free_at), received_at)
        start = max(handed_at, self._received_at)
        self._row(QUEUE, self._uplink, handed_at, start, chunk.batch, tap)
        self._row(TRANSFER, self._uplink, start, received_at, chunk.batch, tap, size)
        self._received_at = received_at

    def _tell_note(self, note: Note, chunk: Chunk, received_at: float) -> None:
        """A span of the device's own.

        The clock of another machine is known to half a round trip only: its times are moved by as
        much as causes need. Nothing is moved where both read one clock.
        """
        waits = note.kind == WAIT
        low, tap = self._free_at, self.plan.tap(chunk.part)
        before = chunk.batch - self.group.run_ahead
        if not waits and before >= 0:
            low = max(low, self._taken_at[before])
        start = min(max(note.start - self.zero, low), received_at)
        end = min(max(note.end - self.zero, start), received_at)
        self._row(note.kind, self.device, start, end, chunk.batch, NONE if waits else tap)
        self._free_at = end

    def landed(self, arrival: Arrival, at: float) -> None:
        """A message has travelled for the link's latency."""
        if self.group.latency_s:
            tap = self.plan.tap(arrival.part)
            self._row(LATENCY, self._uplink, arrival.received_at, at, arrival.batch, tap)

    def _row(
        self, kind: int, actor: int, start: float, end: float, batch: int, tap: int,
        num_bytes: int = NONE,
    ) -> None:  # fmt: skip
        if end > start:
            self._rows(
                (kind, actor, start, end, self.device, batch, tap, num_bytes, NONE, NONE, False)
            )
