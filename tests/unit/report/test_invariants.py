from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import TOY, mobisim
from worlds import blocks_of, device, spans_of, stated, world_of

from mobisim.errors import InvariantError
from mobisim.report.invariants import RULES, InvariantFold, check_summary
from mobisim.sim.server import Worker
from mobisim.span import (
    DOWNLOAD,
    ENCODE,
    FORWARD,
    KINDS,
    LATENCY,
    NONE,
    SIDE_FORWARD,
    STEP,
    TRANSFER,
    Span,
    SpanColumns,
)
from mobisim.world import World

LAYER: dict[str, Any] = {"granularity": "layer", "side_network": {"taps": [1, 2, 3]}}
NUM_BATCHES = 6


def make(granularity: str = "batch", *, run_ahead: int = 1000, **more: Any) -> World:
    """A world in which all kinds of work take their time: the link is slowest."""
    group = device(0.4, encode_s=0.1, transfer_s=1.2, latency="50 ms", run_ahead=run_ahead)
    layered = LAYER if granularity == "layer" else {}
    return world_of(stated(NUM_BATCHES, group, step_s=0.3, **layered, **more))


def delivering() -> World:
    """A world that brings the side network to the device at its end."""
    return make(model="opt-125m", deliver="trained", batch_size=2, sequence_length=8)


def check(world: World, spans: Sequence[Span], block_rows: int = 1000) -> None:
    """Hold spans against the invariants, as a finished run."""
    fold = InvariantFold(world)
    for block in blocks_of(spans, block_rows):
        fold.add(block.columns)
    fold.finish()


def broken(world: World, spans: Sequence[Span], block_rows: int) -> InvariantError:
    """The breach that is found in spans."""
    with pytest.raises(InvariantError) as raised:
        check(world, spans, block_rows)
    return raised.value


def find(spans: Sequence[Span], kind: int, batch: int = 2) -> int:
    """The first span of a kind in the third mini-batch (or another)."""
    return next(i for i, s in enumerate(spans) if s.kind == kind and s.batch in (batch, NONE))


def tamper(spans: Sequence[Span], at: int, **changed: Any) -> list[Span]:
    """The spans with one of them changed."""
    return [*spans[:at], spans[at]._replace(**changed), *spans[at + 1 :]]


Change = Callable[[Span], dict[str, Any]]


def early(seconds: float) -> Change:
    """Begins earlier."""
    return lambda span: {"start": span.start - seconds}


def late(seconds: float) -> Change:
    """Begins later, and so lasts less."""
    return lambda span: {"start": span.start + seconds}


def said(**changed: Any) -> Change:
    """Says something else."""
    return lambda span: changed


BREACHES: dict[str, tuple[int, int, int, Change]] = {
    "ends before it starts": (2, FORWARD, 2, lambda s: {"start": s.end + 1}),
    "ends before the one before it": (2, TRANSFER, 2, lambda s: {"end": s.start}),
    "starts before time": (2, FORWARD, 0, said(start=-1.0)),
    "ends never": (2, STEP, 5, said(end=math.inf)),
    "carries what is not made": (3, TRANSFER, 0, early(0.05)),
    "flies before it left": (3, LATENCY, 0, early(0.05)),
    "steps on what has not arrived": (3, STEP, 0, early(0.05)),
    "forwards two at a time": (4, FORWARD, 2, early(0.05)),
    "carries two at a time": (4, TRANSFER, 2, early(0.05)),
    "outruns the link's rate": (5, TRANSFER, 2, late(0.05)),
    "loses bytes": (6, TRANSFER, 2, lambda s: {"num_bytes": s.num_bytes - 1}),
    "carries less than nothing": (7, TRANSFER, 2, said(num_bytes=-5)),
    "reads what is not written": (8, STEP, 2, lambda s: {"version_read": s.version_written}),
    "reads before the first version": (8, STEP, 2, said(version_read=-3)),
    "writes a version twice": (8, STEP, 2, said(version_written=2, version_read=1)),
    "leaves a version out": (8, STEP, 2, said(version_written=4)),
    "says it was another's": (1, TRANSFER, 2, said(batch=3)),
}


@pytest.mark.parametrize("granularity", ["batch", "layer"])
@pytest.mark.parametrize("block_rows", [1000, 5], ids=["one block", "small blocks"])
def test_a_good_run_breaks_nothing(granularity: str, block_rows: int) -> None:
    """Whatever the size of the blocks."""
    world = make(granularity)
    check(world, spans_of(world), block_rows)


@pytest.mark.parametrize("block_rows", [1000, 5], ids=["one block", "small blocks"])
@pytest.mark.parametrize("granularity", ["batch", "layer"])
@pytest.mark.parametrize(("number", "kind", "batch", "change"), BREACHES.values(), ids=BREACHES)
def test_a_span_that_is_tampered_with_is_found(
    number: int, kind: int, batch: int, change: Change, granularity: str, block_rows: int
) -> None:
    """By the number of the invariant, and by kind and mini-batch of the span."""
    world = make(granularity)
    spans = spans_of(world)
    at = find(spans, kind, batch)
    if kind == STEP and number == 3 and granularity == "layer":
        at = find(spans, SIDE_FORWARD, batch)
    tampered = tamper(spans, at, **change(spans[at]))
    error = broken(world, tampered, block_rows)
    assert error.number == number
    assert RULES[number] in str(error)
    if number in (1, 6):  # what a whole mini-batch lacks is told of its first span
        assert f"batch={batch}," in str(error)
    else:
        assert f"kind={KINDS[tampered[at].kind]}, actor=" in str(error)
        assert f"start={tampered[at].start}" in str(error)


@pytest.mark.parametrize("block_rows", [1000, 5], ids=["one block", "small blocks"])
@pytest.mark.parametrize("granularity", ["batch", "layer"])
@pytest.mark.parametrize("kind", [FORWARD, TRANSFER], ids=["forward", "transfer"])
def test_a_span_that_vanishes_is_missed(kind: int, granularity: str, block_rows: int) -> None:
    """I1: every mini-batch is forwarded and carried, all its parts."""
    world = make(granularity)
    spans = spans_of(world)
    del spans[find(spans, kind)]
    error = broken(world, spans, block_rows)
    assert error.number == 1
    assert "batch=2" in str(error)


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_a_mini_batch_that_is_never_stepped_is_missed_at_the_end(granularity: str) -> None:
    """I1: what was forwarded must not get lost on the way."""
    world = make(granularity)
    spans = spans_of(world)
    del spans[find(spans, STEP, batch=NUM_BATCHES - 1)]
    error = broken(world, spans, 1000)
    assert error.number == 1
    assert f"batch={NUM_BATCHES - 1}" in str(error)


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_a_mini_batch_that_leaves_no_trace_is_missed_at_the_end(granularity: str) -> None:
    """I1: the number of steps of each device is known."""
    world = make(granularity)
    spans = [span for span in spans_of(world) if span.batch != NUM_BATCHES - 1]
    assert "device-0: 5 steps of 6" in str(broken(world, spans, 1000))


def test_a_mini_batch_that_is_forwarded_again_is_found() -> None:
    """I1: exactly once, also long after its step."""
    world = make()
    spans = spans_of(world)
    end = spans[-1].end
    again = spans[find(spans, FORWARD)]._replace(start=end, end=end + 1)
    error = broken(world, [*spans, again], len(spans))
    assert error.number == 1
    assert f"kind=forward, actor=device-0, start={end}" in str(error)


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_a_forward_before_its_credit_is_found(granularity: str) -> None:
    """I3: the run-ahead is a bound, also where the device would have been free."""
    world = make(granularity, run_ahead=1)
    spans = spans_of(world)
    at = find(spans, FORWARD)
    error = broken(world, tamper(spans, at, start=spans[at].start - 0.05), 1000)
    assert error.number == 3
    assert "forward of device 0, batch 2 starts before its credit" in str(error)


def test_a_delivery_before_the_last_step_is_found() -> None:
    """I3: the side network that is delivered is the finished one."""
    world = delivering()
    spans = spans_of(world)
    check(world, spans)
    at = find(spans, DOWNLOAD)
    error = broken(world, tamper(spans, at, start=spans[at].start - 0.1), 1000)
    assert error.number == 3
    assert "kind=download, actor=downlink-0" in str(error)


def test_a_delivery_faster_than_the_downlink_is_found() -> None:
    """I5 holds for both directions."""
    world = delivering()
    spans = spans_of(world)
    at = find(spans, DOWNLOAD)
    error = broken(world, tamper(spans, at, start=spans[at].start + 0.1), 1000)
    assert error.number == 5
    assert "kind=download" in str(error)


OUTAGES = {"windows": [["2 s", "3 s"], ["5 s", "5.5 s"]]}
RATES = {"format": "csv", "time_s": [0.0, 1.0, 2.0], "bit_per_s": [9000.0, 2000.0, 7000.0]}
VARYING: dict[str, dict[str, Any]] = {
    "outages": {"outages": OUTAGES},
    "rates": {"kind": "trace", "uplink": RATES, "downlink": "1 Mbit/s"},
    "opportunities": {
        "kind": "trace",
        "uplink": {"format": "mahimahi", "ms": [700, 1500, 1500, 2000]},
        "downlink": "1 Mbit/s",
    },
}


@pytest.mark.parametrize("block_rows", [1000, 3], ids=["one block", "small blocks"])
@pytest.mark.parametrize("case", VARYING)
def test_a_transfer_beyond_a_supply_is_found(case: str, block_rows: int) -> None:
    """What traces and outages left is all that a link can have carried."""
    world = world_of(stated(6, device(0.1, transfer_s=1.0) | linked(**VARYING[case]), step_s=0.1))
    spans = spans_of(world)
    check(world, spans, block_rows)
    at = find(spans, TRANSFER, batch=4)
    start, end = spans[at].start, spans[at].end
    shorter = tamper(spans, at, end=start + 0.4 * (end - start))
    ordered = sorted(shorter, key=lambda span: span.end)
    assert broken(world, ordered, block_rows).number == 5


def linked(**changed: Any) -> dict[str, Any]:
    """A device's link with some of its fields changed."""
    return {"link": device(0.1)["link"] | changed}


@pytest.mark.parametrize("block_rows", [1000, 3], ids=["one block", "small blocks"])
def test_flows_beyond_their_cell_are_found(block_rows: int) -> None:
    """Each of three links may carry 8 kbit/s; their cell carries no more than 12."""
    group = device(0.1, transfer_s=1.0, count=3) | {"cell": "home"}
    cells = {"home": {"uplink": "12 kbit/s", "downlink": "12 kbit/s"}}
    world = world_of(stated(4, group, step_s=0.1, cells=cells))
    spans = spans_of(world)
    check(world, spans, block_rows)
    ample = replace(world, cells=(replace(world.cells[0], uplink_bits_per_s=24_000.0),))
    assert broken(world, spans_of(ample), block_rows).number == 5


def test_workers_that_step_out_of_order_break_nothing() -> None:
    """Staleness is legal; only a negative one is not."""
    fleet = device(0.1, transfer_s=0.1, run_ahead=4, count=3)
    world = world_of(stated(8, fleet, step_s={"mean": "1 s", "distribution": "exponential"},
                            workers=3))  # fmt: skip
    spans = spans_of(world)
    check(world, spans, block_rows=7)
    assert max(s.version_written - 1 - s.version_read for s in spans if s.kind == STEP) > 0


def test_a_run_that_the_horizon_cuts_breaks_nothing() -> None:
    """Spans that are cut carry no versions and no promises."""
    world = make(horizon="3 s")
    fold = InvariantFold(world)
    for block in blocks_of(spans_of(world), 4):
        fold.add(block.columns)


def summary_of(world: World) -> tuple[dict[str, Any], list[SpanColumns]]:
    """The checked part of a summary, and the blocks that it sums up."""
    spans = spans_of(world)
    names = world.actors.names
    makespan = spans[-1].end
    busy = dict.fromkeys(names, 0.0)
    for span in spans:
        if span.kind in (FORWARD, ENCODE, TRANSFER, SIDE_FORWARD, STEP):
            busy[names[span.actor]] += span.end - span.start
    summary = {
        "num_steps": NUM_BATCHES,
        "uplink_bytes": NUM_BATCHES * 1000,
        "downlink_bytes": 0,
        "makespan_s": makespan,
        "utilisation": {name: seconds / makespan for name, seconds in busy.items()},
        "device_memory_bytes": {"weights": 5, "queue": 0},
        "server_memory_bytes": None,
    }
    return summary, [block.columns for block in blocks_of(spans, 5)]


def test_a_true_summary_breaks_nothing() -> None:
    """Its numbers are sums over the spans."""
    world = make()
    check_summary(*summary_of(world), world.actors.names)


WRONG = {
    "a step too many": (9, {"num_steps": 7}, "summary.num_steps = 7, spans: 6"),
    "bytes up": (9, {"uplink_bytes": 1}, "summary.uplink_bytes = 1, spans: 6000"),
    "bytes down": (9, {"downlink_bytes": 1}, "summary.downlink_bytes = 1, spans: 0"),
    "a makespan": (9, {"makespan_s": 1.0}, "summary.makespan_s = 1.0, spans:"),
    "a utilisation": (9, {"utilisation": {"uplink-0": 0.5}}, "summary.utilisation[uplink-0]"),
    "less than no memory": (
        7, {"device_memory_bytes": {"queue": -1}}, "summary.device_memory_bytes.queue = -1"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("number", "changed", "says"), WRONG.values(), ids=WRONG)
def test_a_summary_that_is_tampered_with_is_found(
    number: int, changed: dict[str, Any], says: str
) -> None:
    """By the number of the invariant and the field that disagrees."""
    world = make()
    summary, blocks = summary_of(world)
    with pytest.raises(InvariantError) as raised:
        check_summary(summary | changed, blocks, world.actors.names)
    assert raised.value.number == number
    assert says in str(raised.value)


def test_a_run_that_breaks_an_invariant_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with exit code 1, the number and the span, and leaves no file."""
    stepped = Worker._stepped

    def skips_a_version(self: Worker, event: Any) -> None:
        self.server.version += 1
        stepped(self, event)

    monkeypatch.setattr(Worker, "_stepped", skips_a_version)
    (tmp_path / "toy.yaml").write_text(TOY, "utf-8")
    ran = mobisim(capsys, "run", tmp_path / "toy.yaml", "--out", tmp_path / "out" / "run")
    assert (ran.code, ran.out) == (1, "")
    assert "invariant I8 is broken" in ran.err
    assert "kind=step, actor=server/worker-0" in ran.err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("block_rows", [1000, 5], ids=["one block", "small blocks"])
@pytest.mark.parametrize("discipline", ["first-come", "fair"])
def test_a_mini_batch_that_jumps_the_queue_is_found(discipline: str, block_rows: int) -> None:
    """I10: whatever the discipline, a device's own leave the server's queue in their order."""
    group = device(0.1, transfer_s=0.2, count=2)
    world = world_of(stated(NUM_BATCHES, group, step_s=1.0, discipline=discipline))
    spans = spans_of(world)
    check(world, spans, block_rows)
    third, fourth = (
        next(i for i, s in enumerate(spans) if s.actor == world.actors.server and s[4:6] == (0, k))
        for k in (2, 3)
    )
    spans[third] = spans[third]._replace(batch=3, start=spans[fourth].start)
    spans[fourth] = spans[fourth]._replace(batch=2, start=spans[third].start)
    assert broken(world, spans, block_rows).number == 10


def test_who_came_first_goes_first() -> None:
    """I10: with first-come nobody goes before another device's that has waited longer."""
    world = world_of(stated(NUM_BATCHES, device(0.1, transfer_s=0.2, count=2), step_s=1.0))
    spans = spans_of(world)
    at = max(i for i, s in enumerate(spans) if s.actor == world.actors.server)
    assert broken(world, tamper(spans, at, start=spans[at].start - 0.5), 1000).number == 10
