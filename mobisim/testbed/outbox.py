"""A device's messages on their way: what goes next and when, until the server has them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mobisim.testbed.frames import CHUNK_BYTES, Chunk, Note
from mobisim.testbed.pace import Pace

CHUNK_S = 0.02  # of the link's time in one chunk: each costs a wake-up beside what computes
LEAST_CHUNK = 4096

Place = tuple[int, int]  # mini-batch, part


def chunk_bytes(bits_per_s: float | None) -> int:
    """Bytes of a chunk on a link that the sender limits; None where the kernel does."""
    if bits_per_s is None:
        return CHUNK_BYTES
    return min(CHUNK_BYTES, max(LEAST_CHUNK, int(bits_per_s * CHUNK_S / 8)))


@dataclass(frozen=True)
class Message:
    """One part of a mini-batch, handed over."""

    batch: int
    part: int
    body: bytes
    wire_bytes: int
    handed_at: float
    notes: tuple[Note, ...]

    @property
    def place(self) -> Place:
        """Where it stands in the order of messages."""
        return self.batch, self.part

    def chunk(self, start: int, stop: int) -> Chunk:
        """Some of its bytes."""
        last = stop == len(self.body)
        notes = self.notes if last else None
        return Chunk(self.batch, self.part, start, self.body[start:stop], self.handed_at, notes)


class Outbox:
    """Messages in order, each kept until the server has it; the link carries them one by one.

    With a pace, a token bucket without depth: a message's last byte is due when the link, at that
    pace, would have carried it, and chunks before it at even steps. Without one, chunks are due at
    once and the kernel limits the link. `zero` is when the run began, by the clock of all times.
    """

    def __init__(self, pace: Pace | None) -> None:
        self.pace, self.zero = pace, 0.0
        self.messages: deque[Message] = deque()
        self.floor: Place = (0, 0)  # the server has all before it
        self._at = 0  # the message whose bytes go next
        self._offset = 0
        self._begun = 0.0  # when the link took up the current message
        self._ends: float | None = None  # when it will have carried it; None: not taken up
        self._from = 0  # the byte with which it then began
        self._free_at = 0.0  # when the link is through with what was sent

    def put(self, message: Message) -> None:
        """Take a message."""
        self.messages.append(message)

    @property
    def is_sent(self) -> bool:
        """Whether every byte of every message was sent."""
        return self._at == len(self.messages)

    def due(self) -> float | None:
        """When the next chunk may be sent; None where there is none."""
        if self.is_sent:
            return None
        message = self.messages[self._at]
        if self.pace is None:
            return message.handed_at
        ends = self._taken_up(message, self.pace)
        share = (self._stop(message) - self._from) / (len(message.body) - self._from)
        return self._begun + (ends - self._begun) * share

    def _taken_up(self, message: Message, pace: Pace) -> float:
        if self._ends is None:
            self._begun = max(message.handed_at, self._free_at)
            left = (len(message.body) - self._from) / len(message.body) * message.wire_bytes
            self._ends = self.zero + pace.end(self._begun - self.zero, left)
        return self._ends

    def _stop(self, message: Message) -> int:
        rate = None if self.pace is None else self.pace.bits_per_s
        return min(self._offset + chunk_bytes(rate), len(message.body))

    def next_chunk(self) -> Chunk:
        """The chunk that `due` spoke of; it counts as sent."""
        message, due = self.messages[self._at], self.due()
        stop = self._stop(message)
        chunk = message.chunk(self._offset, stop)
        self._offset = stop
        if stop == len(message.body):
            self._free_at = due or 0.0
            self._go_to(self._at + 1, 0)
        return chunk

    def _go_to(self, at: int, offset: int) -> None:
        self._at, self._offset, self._from, self._ends = at, offset, offset, None

    @property
    def position(self) -> tuple[Place, int]:
        """What was sent so far: everything before this message and offset."""
        if not self.is_sent:
            return self.messages[self._at].place, self._offset
        if self.messages:
            return self.messages[-1].place, len(self.messages[-1].body)
        return self.floor, 0

    def received(self, place: Place) -> None:
        """The server has all messages before `place`: forget them."""
        self.floor = max(self.floor, place)
        while self.messages and self.messages[0].place < place:
            self.messages.popleft()
            if self._at:
                self._at -= 1
            else:
                self._go_to(0, 0)

    def rewind(self, place: Place, offset: int, now: float) -> None:
        """What was sent after this place was lost: send it again."""
        if not self.messages:
            return
        fits = self.messages[0].place == place and offset < len(self.messages[0].body)
        self._go_to(0, offset if fits else 0)
        self._free_at = now

    def begin_again(self, place: Place) -> None:
        """The server has lost even what it had: nothing kept is of use."""
        self.messages.clear()
        self._go_to(0, 0)
        self.floor = place
