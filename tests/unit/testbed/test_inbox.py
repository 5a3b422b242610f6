from __future__ import annotations

from typing import Any

import pytest

from mobisim.prepare import Options
from mobisim.scenario.load import loads
from mobisim.span import ENCODE, FORWARD, KINDS, QUEUE, TRANSFER, WAIT, Row
from mobisim.testbed.frames import Chunk, Note, RubbishError
from mobisim.testbed.inbox import Inbox
from mobisim.testbed.plan import Plan

SCENARIO = """
name: inbox
granularity: {granularity}
model: opt-125m
wire: {{codec: int8}}
training: {{task: builtin, backbone: builtin, batch_size: 4, sequence_length: 8, epochs: 1,
           num_samples: 40}}
devices:
  - profile: {{kind: fixed, forward_s: 1 s, encode_s: 1 s}}
    link: {{kind: constant, uplink: 1 Mbit/s, latency: 0 s, overhead_bytes: 0}}
    run_ahead: 2
server: {{profile: {{kind: fixed, step_s: 1 s}}}}
"""
NOTES = (Note(FORWARD, 1.0, 2.0), Note(ENCODE, 2.0, 2.5))


class Bench:
    """An inbox, the rows that it wrote, and what to send to it."""

    def __init__(self, granularity: str = "batch") -> None:
        self.plan = Plan.of(loads(SCENARIO.format(granularity=granularity)), Options(train=False))
        self.rows: list[Row] = []
        self.inbox = Inbox(self.plan, 0, self.rows.append)

    def size(self, part: int = 0) -> int:
        return self.plan.num_bytes(0, part)

    def send(self, batch: int, part: int, start: int, stop: int, at: float, **last: Any) -> object:
        chunk = Chunk(batch, part, start, bytes(stop - start), **last)
        return self.inbox.add(chunk, at)

    def send_whole(self, batch: int, at: float, handed_at: float, notes: Any = NOTES) -> object:
        return self.send(batch, 0, 0, self.size(), at, handed_at=handed_at, notes=notes)


def test_chunks_become_a_message_and_its_rows() -> None:
    """Forward and encode as the device tells them; the transfer ends with the last byte."""
    bench = Bench()
    half = bench.size() // 2
    assert bench.send(0, 0, 0, half, 3.0) is None
    assert bench.inbox.offset == half
    arrival = bench.send(0, 0, half, bench.size(), 4.0, handed_at=2.5, notes=NOTES)
    assert arrival is not None
    assert bench.inbox.expected == (1, 0)
    told = [(KINDS[row[0]], row[2], row[3]) for row in bench.rows]
    assert told == [("forward", 1.0, 2.0), ("encode", 2.0, 2.5), ("transfer", 2.5, 4.0)]


def test_a_message_that_waited_for_the_link_queued() -> None:
    """From when it was handed over until the one before was through."""
    bench = Bench()
    bench.send_whole(0, at=4.0, handed_at=2.5)
    bench.send_whole(1, at=6.0, handed_at=3.0, notes=(Note(FORWARD, 2.5, 3.0),))
    queue, transfer = bench.rows[-2:]
    assert (queue[0], queue[2], queue[3]) == (QUEUE, 3.0, 4.0)
    assert (transfer[0], transfer[2], transfer[3]) == (TRANSFER, 4.0, 6.0)


def test_what_came_before_or_after_a_gap_is_ignored() -> None:
    """A device sends it again where it was lost, and twice does no harm."""
    bench = Bench()
    bench.send_whole(0, at=4.0, handed_at=2.5)
    count = len(bench.rows)
    assert bench.send_whole(0, at=5.0, handed_at=2.5) is None
    assert bench.send(1, 0, 10, 20, 5.0) is None
    assert (bench.inbox.expected, bench.inbox.offset, len(bench.rows)) == ((1, 0), 0, count)


@pytest.mark.parametrize(
    ("batch", "part", "too_much"), [(2, 0, 0), (99, 0, 0), (0, 1, 0), (0, 0, 1)]
)
def test_more_than_was_asked_for_is_rubbish(batch: int, part: int, too_much: int) -> None:
    """Beyond the run-ahead, beyond the last mini-batch, a part too many, a byte too many."""
    bench = Bench()
    with pytest.raises(RubbishError):
        bench.send(batch, part, 0, bench.size() + too_much, 1.0, handed_at=1.0, notes=())


def test_a_last_chunk_that_comes_early_is_rubbish() -> None:
    """The bytes of each message are known."""
    bench = Bench()
    with pytest.raises(RubbishError):
        bench.send(0, 0, 0, 10, 1.0, handed_at=1.0, notes=())


def test_credit_is_given_by_taking_up() -> None:
    """Two ahead: the third mini-batch may come once the first is taken up."""
    bench = Bench()
    bench.send_whole(0, at=4.0, handed_at=2.5)
    bench.send_whole(1, at=6.0, handed_at=3.0, notes=())
    bench.inbox.take_up(6.5)
    waited = (Note(WAIT, 3.0, 6.6), Note(FORWARD, 6.6, 7.0))
    assert bench.send_whole(2, at=8.0, handed_at=7.0, notes=waited) is not None
    wait = next(row for row in bench.rows if row[0] == WAIT)
    assert (wait[5], wait[6]) == (2, -1)


def test_another_machines_clock_is_moved_no_further_than_causes_ask() -> None:
    """A forward told as before its credit begins with the credit."""
    bench = Bench()
    bench.send_whole(0, at=4.0, handed_at=2.5)
    bench.send_whole(1, at=6.0, handed_at=3.0, notes=())
    bench.inbox.take_up(6.5)
    bench.send_whole(2, at=8.0, handed_at=7.0, notes=(Note(FORWARD, 6.499, 7.0),))
    forward = [row for row in bench.rows if row[0] == FORWARD][-1]
    assert (forward[2], forward[3]) == (6.5, 7.0)


def test_each_tap_is_a_message_with_layer_granularity() -> None:
    """The first brings lengths and labels and is longer; four taps make a mini-batch."""
    bench = Bench("layer")
    assert bench.size(0) > bench.size(1)
    for part in range(4):
        assert bench.inbox.expected == (0, part)
        bench.send(0, part, 0, bench.size(part), 4.0 + part, handed_at=2.5, notes=())
    assert bench.inbox.expected == (1, 0)
    taps = [row[6] for row in bench.rows if row[0] == TRANSFER]
    assert taps == [1, 2, 3, 4]
