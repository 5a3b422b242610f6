from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobisim.span import ENCODE, FORWARD, STEP, WAIT
from mobisim.testbed import frames
from mobisim.testbed.frames import Ask, Bye, Chunk, Hello, Note, RubbishError, State

HELLO = Hello(frames.MAGIC, frames.PROTOCOL, 3, b"0123456789ab", b"c" * 16)
STATE = State(
    known=True, started=True, done=False, now=5.0, zero=1.0, answers=-1.0, taken_up=2, batch=4,
    part=1, offset=77, network_size=9, clock=b"k" * 16,
)  # fmt: skip
NOTES = (Note(WAIT, 1.0, 2.0), Note(FORWARD, 2.0, 3.0), Note(ENCODE, 3.0, 3.5))
LAST = Chunk(7, 2, 4096, b"body", 3.5, NOTES)
FIXED = [HELLO, Ask(12, 3.5), Bye(1.0, 2.0), STATE]
READERS = {
    frames.HELLO: Hello.unpack,
    frames.ASK: Ask.unpack,
    frames.BYE: Bye.unpack,
    frames.STATE: State.unpack,
    frames.CHUNK: Chunk.unpack,
    frames.NETWORK: frames.unpack_network,
    frames.REFUSED: frames.unpack_refused,
}


@pytest.mark.parametrize("frame", FIXED, ids=lambda frame: type(frame).__name__)
def test_what_is_packed_comes_out(frame: Hello | Ask | Bye | State) -> None:
    """Every field of every frame survives the wire."""
    assert type(frame).unpack(frame.pack()) == frame


@given(
    batch=st.integers(0, 2**64 - 1),
    part=st.integers(0, 2**16 - 1),
    offset=st.integers(0, 2**32 - 1),
    body=st.binary(min_size=1, max_size=300),
    notes=st.none() | st.just(NOTES) | st.just(NOTES[1:]) | st.just(()),
)
def test_chunks_come_out(
    *, batch: int, part: int, offset: int, body: bytes, notes: tuple[Note, ...] | None
) -> None:
    """A chunk survives the wire, the last one with what the device tells of itself."""
    chunk = Chunk(batch, part, offset, body, 3.5, notes)
    assert Chunk.unpack(chunk.pack()) == chunk


def test_chunks_of_the_side_network_come_out() -> None:
    """Offset and bytes survive the wire."""
    assert frames.unpack_network(frames.pack_network(5, b"abc")) == (5, b"abc")


def test_a_refusal_is_cut_to_a_bearable_length() -> None:
    """Nobody can make the server send much."""
    assert len(frames.pack_refused("x" * 10_000)) == 1 + frames.MAX_REASON


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(0, 0, 0, b"", 1.0, ()),
        Chunk(0, 0, 0, b"x" * (frames.CHUNK_BYTES + 1)),
        Chunk(0, 0, 0, b"x", 1.0, (Note(FORWARD, 2.0, 1.5),)),
        Chunk(0, 0, 0, b"x", 1.0, (Note(FORWARD, 0.5, 1.5),)),
        Chunk(0, 0, 0, b"x", 1.0, (Note(STEP, 0.5, 0.75),)),
        Chunk(0, 0, 0, b"x", math.nan, ()),
        Chunk(0, 0, 0, b"x", math.inf, ()),
        Chunk(0, 0, 0, b"x", 9.0, (NOTES[1],) * 4),
    ],
    ids=["empty", "oversized", "backwards", "late", "kind", "nan", "infinite", "too many"],
)
def test_chunks_that_no_honest_device_sends(chunk: Chunk) -> None:
    """Sizes, times and kinds are checked before anything is made of them."""
    with pytest.raises(RubbishError):
        Chunk.unpack(chunk.pack())


def test_ten_thousand_malformed_frames_are_refused_or_read() -> None:
    """Whatever bytes come, a frame is read or called rubbish; nothing else is raised."""
    source = random.Random(8)
    honest = [*(frame.pack() for frame in FIXED), LAST.pack(), frames.pack_network(0, b"n" * 40)]
    refused = 0
    for _ in range(10_000):
        frame = _mutated(source, source.choice(honest))
        reader = READERS.get(frame[:1])
        try:
            if reader is not None:
                reader(frame)
        except RubbishError:
            refused += 1
    assert refused > 3_000


def _mutated(source: random.Random, frame: bytes) -> bytes:
    broken = bytearray(frame)
    for _ in range(source.randrange(1, 6)):
        broken[source.randrange(len(broken))] = source.randrange(256)
    cut = source.randrange(2 * len(broken))
    longer = source.randbytes(source.randrange(64)) if source.random() < 0.3 else b""
    return bytes(broken[:1] + broken[1 : max(1, cut)]) + longer
