from __future__ import annotations

import pytest

from mobisim.span import FORWARD
from mobisim.testbed.frames import Chunk, Note
from mobisim.testbed.outbox import LEAST_CHUNK, Message, Outbox
from mobisim.testbed.pace import Steady

RATE = 8.0 * LEAST_CHUNK  # one chunk a second


def message(batch: int, chunks: float, handed_at: float, part: int = 0, factor: int = 1) -> Message:
    size = int(chunks * LEAST_CHUNK)
    notes = (Note(FORWARD, 0.0, handed_at),)
    return Message(batch, part, bytes(size), factor * size, handed_at, notes)


def drained(outbox: Outbox) -> list[tuple[float | None, int, int]]:
    """When each chunk is due, of which mini-batch it is, and where in its message it starts."""
    found: list[tuple[float | None, int, int]] = []
    while (due := outbox.due()) is not None:
        chunk = outbox.next_chunk()
        found.append((due, chunk.batch, chunk.offset))
    return found


def test_a_chunk_is_due_when_the_link_has_carried_it() -> None:
    """At one chunk a second, messages go one behind the other, and an idle link saves nothing."""
    outbox = Outbox(Steady(RATE))
    for one in (message(0, 2, 1.0), message(1, 1, 1.5), message(2, 0.5, 9.0)):
        outbox.put(one)
    size = LEAST_CHUNK
    assert drained(outbox) == [(2.0, 0, 0), (3.0, 0, size), (4.0, 1, 0), (9.5, 2, 0)]


class Stairs:
    """A pace that carries a message in two seconds, whatever its size."""

    bits_per_s = RATE

    def end(self, begun: float, num_bytes: float) -> float:
        assert num_bytes > 0
        return begun + 2.0


def test_a_link_that_varies_says_when_a_message_ends() -> None:
    """Counted from the run's begin; the chunks before go at even steps."""
    outbox = Outbox(Stairs())
    outbox.zero = 100.0
    outbox.put(message(0, 4, 101.0))
    outbox.put(message(1, 1, 101.0))
    assert [due for due, *_ in drained(outbox)] == [101.5, 102.0, 102.5, 103.0, 105.0]


def test_packet_overhead_occupies_the_link() -> None:
    """What is counted are the bytes on the wire."""
    outbox = Outbox(Steady(RATE))
    outbox.put(message(0, 2, 0.0, factor=3))
    assert [due for due, *_ in drained(outbox)] == [3.0, 6.0]


def test_without_a_rate_everything_is_due_at_once() -> None:
    """The kernel limits the link, so the sender does not wait."""
    outbox = Outbox(None)
    outbox.put(message(0, 2, 1.0))
    assert drained(outbox) == [(1.0, 0, 0)]


def test_only_the_last_chunk_brings_the_notes() -> None:
    """The device's own spans come with the byte that makes its message whole."""
    outbox = Outbox(Steady(RATE))
    outbox.put(message(0, 2, 1.0))
    first, last = outbox.next_chunk(), outbox.next_chunk()
    assert first.notes is None
    assert last.notes == (Note(FORWARD, 0.0, 1.0),)


@pytest.mark.parametrize(("offset", "starts"), [(0, [0, 1]), (LEAST_CHUNK, [1])])
def test_what_was_lost_is_sent_again(offset: int, starts: list[int]) -> None:
    """After a rewind the messages come again from where the server expects them."""
    outbox = Outbox(Steady(RATE))
    for batch in range(3):
        outbox.put(message(batch, 2, 0.0))
    drained(outbox)
    outbox.received((1, 0))
    assert outbox.is_sent
    outbox.rewind((1, 0), offset, now=100.0)
    again = drained(outbox)
    size = LEAST_CHUNK
    assert [(b, o) for _, b, o in again] == [(1, s * size) for s in starts] + [(2, 0), (2, size)]
    assert again[0][0] == 101.0


def test_what_the_server_has_is_forgotten() -> None:
    """Messages are kept until they are known to be there, and no longer."""
    outbox = Outbox(Steady(RATE))
    for batch in range(3):
        outbox.put(message(batch, 1, 0.0))
    outbox.next_chunk()
    outbox.received((2, 0))
    assert [one.batch for one in outbox.messages] == [2]
    assert outbox.floor == (2, 0)
    assert isinstance(outbox.next_chunk(), Chunk)
    assert outbox.position == ((2, 0), LEAST_CHUNK)


def test_a_server_that_lost_everything_begins_again() -> None:
    """Nothing kept is sent after that, and what comes next may be older."""
    outbox = Outbox(Steady(RATE))
    outbox.put(message(5, 1, 0.0))
    outbox.begin_again((2, 0))
    assert outbox.due() is None
    assert outbox.position == ((2, 0), 0)
