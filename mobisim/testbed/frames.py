"""What device and server say to each other: small validated frames, each one message of the socket.

All numbers are little-endian. A device says hello, then sends chunks of its messages, asks how far
it got, and in the end says bye. The server answers with its whole state, which may be repeated and
lost without harm, with chunks of the side network, or refuses. The chunks of a message make up the
bytes of training/message.py; the last one brings the device's own spans of that message.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from mobisim.errors import MobisimError
from mobisim.span import ENCODE, FORWARD, WAIT

PROTOCOL = 1
MAGIC = b"MBTB"
CHUNK_BYTES = 256 * 1024  # the most of a message, or of the side network, in one frame
MAX_FRAME_BYTES = CHUNK_BYTES + 1024
MAX_NOTES = 3  # a part has a wait, a forward and an encode at most
MAX_REASON = 300
_NOTED_KINDS = (WAIT, FORWARD, ENCODE)

HELLO, CHUNK, ASK, BYE = b"H", b"C", b"A", b"B"
STATE, NETWORK, REFUSED = b"S", b"N", b"X"


class RubbishError(MobisimError):
    """A frame that no honest peer sends."""


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise RubbishError(what)


class _Fixed:
    """A frame of numbers and short byte strings only, in the order of its fields."""

    TAG: ClassVar[bytes]
    LAYOUT: ClassVar[struct.Struct]

    def pack(self) -> bytes:
        """The frame's bytes."""
        return self.TAG + self.LAYOUT.pack(*vars(self).values())

    @classmethod
    def unpack(cls, frame: bytes) -> Self:
        """The frame that `pack` wrote.

        Raises:
            RubbishError: of another length, or with a time that is no number.
        """
        _require(len(frame) == 1 + cls.LAYOUT.size, f"{cls.__name__} of {len(frame)} bytes")
        values = cls.LAYOUT.unpack_from(frame, 1)
        fine = all(math.isfinite(value) for value in values if isinstance(value, float))
        _require(fine, f"{cls.__name__} with a time that is no number")
        return cls(*values)


@dataclass(frozen=True)
class Hello(_Fixed):
    """A device is ready: which one, for which run, and by whose clock."""

    magic: bytes
    protocol: int
    device: int
    digest: bytes
    clock: bytes

    TAG = HELLO
    LAYOUT = struct.Struct("<4sBI12s16s")


@dataclass(frozen=True)
class Ask(_Fixed):
    """How far am I? `network_bytes` of the side network have come; `sent_at` comes back."""

    network_bytes: int
    sent_at: float

    TAG = ASK
    LAYOUT = struct.Struct("<Qd")


@dataclass(frozen=True)
class Bye(_Fixed):
    """The side network is here: when its last byte came, and when it counts as landed."""

    received_at: float
    landed_at: float

    TAG = BYE
    LAYOUT = struct.Struct("<dd")


@dataclass(frozen=True)
class State(_Fixed):
    """All that a device must know: what is expected of it, and how far the server is.

    `known` is false for a peer that has not said hello. `answers` is the time that an Ask brought,
    NaN-free: negative where this answers none.
    """

    known: bool
    started: bool
    done: bool
    now: float
    zero: float
    answers: float
    taken_up: int
    batch: int
    part: int
    offset: int
    network_size: int
    clock: bytes

    TAG = STATE
    LAYOUT = struct.Struct("<???dddQQHIQ16s")


class Note(NamedTuple):
    """A span that a device tells of itself, by its clock."""

    kind: int
    start: float
    end: float


_CHUNK = struct.Struct("<QHIBd")
_NOTE = struct.Struct("<Bdd")


@dataclass(frozen=True)
class Chunk:
    """Bytes of a message from `offset` on; the last chunk says when it was handed over, and notes.

    `num_notes` is LAST_NOT for all but the last.
    """

    batch: int
    part: int
    offset: int
    body: bytes
    handed_at: float = 0.0
    notes: tuple[Note, ...] | None = None

    NOT_LAST: ClassVar[int] = 255

    def pack(self) -> bytes:
        """The frame's bytes."""
        count = self.NOT_LAST if self.notes is None else len(self.notes)
        head = _CHUNK.pack(self.batch, self.part, self.offset, count, self.handed_at)
        return b"".join([CHUNK, head, *(_NOTE.pack(*note) for note in self.notes or ()), self.body])

    @classmethod
    def unpack(cls, frame: bytes) -> Chunk:
        """The frame that `pack` wrote.

        Raises:
            RubbishError: cut, oversized, or with notes that make no sense.
        """
        _require(1 + _CHUNK.size <= len(frame) <= MAX_FRAME_BYTES, f"Chunk of {len(frame)} bytes")
        batch, part, offset, count, handed_at = _CHUNK.unpack_from(frame, 1)
        start = 1 + _CHUNK.size
        notes = None
        if count != cls.NOT_LAST:
            _require(count <= MAX_NOTES, f"Chunk with {count} notes")
            _require(len(frame) >= start + count * _NOTE.size, "Chunk cut within its notes")
            places = range(start, start + count * _NOTE.size, _NOTE.size)
            notes = tuple(Note(*_NOTE.unpack_from(frame, place)) for place in places)
            start = places.stop
            _check_notes(notes, handed_at)
        body = frame[start:]
        _require(0 < len(body) <= CHUNK_BYTES, f"Chunk with {len(body)} bytes of a message")
        return cls(batch, part, offset, body, handed_at, notes)


def _check_notes(notes: Sequence[Note], handed_at: float) -> None:
    """Notes follow one another, and the message is handed over last."""
    times = [time for note in notes for time in (note.start, note.end)] + [handed_at]
    fine = all(math.isfinite(time) and time >= 0 for time in times) and times == sorted(times)
    _require(fine, "Chunk with notes out of order")
    _require(all(note.kind in _NOTED_KINDS for note in notes), "Chunk with an unknown note")


_NETWORK = struct.Struct("<Q")


def pack_network(offset: int, body: bytes) -> bytes:
    """A chunk of the side network."""
    return NETWORK + _NETWORK.pack(offset) + body


def unpack_network(frame: bytes) -> tuple[int, bytes]:
    """Offset and bytes of a chunk of the side network.

    Raises:
        RubbishError: cut or oversized.
    """
    _require(1 + _NETWORK.size < len(frame) <= MAX_FRAME_BYTES, f"Network of {len(frame)} bytes")
    return int(_NETWORK.unpack_from(frame, 1)[0]), frame[1 + _NETWORK.size :]


def pack_refused(reason: str) -> bytes:
    """Why a peer is not served."""
    return REFUSED + reason[:MAX_REASON].encode(errors="replace")


def unpack_refused(frame: bytes) -> str:
    """The reason in words."""
    return frame[1:].decode(errors="replace")
