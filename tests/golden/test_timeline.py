"""Small timelines, kept as tables that a person can read, row by row what the engine writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import witness
from worlds import device, rounds_of, spans_of, stated, world_of

from mobisim.span import KINDS, NONE, Span
from mobisim.world import Calls, World

HERE = Path(__file__).parent

# Two phones share a worker; each may be two mini-batches ahead, and radio and worker are slow.
BATCH = stated(
    3,
    device(1.0, encode_s=0.5, transfer_s=2.0, latency="250 ms", run_ahead=2, count=2),
    step_s=1.25,
    horizon="9.5 s",
)
# One phone sends each of two layers as soon as it is done; the step's first third needs no more.
LAYER = stated(
    2,
    device(2.0, transfer_s=1.0, latency="500 ms", run_ahead=1),
    step_s=1.5,
    granularity="layer",
    side_network={"taps": [1, 2]},
)
# Two phones of three train in each of two rounds, which end with the first update after 8 s.
ROUNDS = stated(
    2,
    device(1.0, transfer_s=1.0, latency="250 ms", count=2),
    device(4.0, transfer_s=1.0, latency="250 ms"),
    step_s=1.0,
)

# The server restarts within the second step and takes it up anew; the lost part of it is cut.
RESTART = stated(
    3,
    device(1.0, transfer_s=0.5, latency="250 ms", run_ahead=2),
    step_s=1.25,
    restarts={"windows": [["3.5 s", "4.5 s"]]},
)
# A phone vanishes while it computes one layer and its link carries the other, and comes back.
VANISH = stated(
    2,
    device(2.0, transfer_s=1.0, latency="250 ms", run_ahead=2)
    | {"absences": {"windows": [["1.25 s", "4 s"]], "kind": "abrupt"}},
    step_s=1.5,
    granularity="layer",
    side_network={"taps": [1, 2]},
)


def table(world: World, spans: list[Span]) -> str:
    """The spans as an aligned table: when, who, what, and what came of it."""
    head = f"{'from':>7} {'to':>7}  {'actor':<16} {'kind':<13} {'payload':<21} note"
    return "\n".join([head, *(_line(world, span) for span in spans)]) + "\n"


def _line(world: World, span: Span) -> str:
    owner = "" if span.device == NONE else f"device {span.device} "
    payload = owner if span.batch == NONE else f"{owner}batch {span.batch}"
    if span.tap != NONE:
        payload += f" tap {span.tap}"
    actor, kind, notes = world.actors.names[span.actor], KINDS[span.kind], []
    if span.num_bytes != NONE:
        notes.append(f"{span.num_bytes} bytes")
    if span.version_read != NONE:
        written = "…" if span.version_written == NONE else span.version_written
        steps = f" -> {written}" if kind == "step" else ""
        notes.append(f"version {span.version_read}{steps}")
    if span.cut:
        notes.append("cut")
    when = f"{span.start:7.3f} {span.end:7.3f}"
    return f"{when}  {actor:<16} {kind:<13} {payload:<21} {', '.join(notes)}".rstrip()


def rounds() -> World:
    """The first takes both phones of a sort, the second one of them and the slow one."""
    return rounds_of(ROUNDS, selected=[[0, 1], [1, 2]], local=[1, 2, 2], awaited=2, deadline_s=8.0)


def buffered() -> World:
    """Two of three are at work, and each update makes a version."""
    world = rounds_of(ROUNDS, selected=[[]] * 3, local=[1, 1, 1], awaited=1)
    assert world.rounds is not None
    calls = Calls(np.array([2, 0, 1], np.int32), 2)
    return replace(world, rounds=replace(world.rounds, calls=calls))


WORLDS = {
    **{
        name: world_of(scenario)
        for name, scenario in {
            "batch": BATCH,
            "layer": LAYER,
            "restart": RESTART,
            "vanish": VANISH,
        }.items()
    },
    "rounds": rounds(),
    "buffered": buffered(),
}


@pytest.mark.parametrize(("name", "world"), WORLDS.items(), ids=WORLDS)
def test_golden_timeline(name: str, world: World) -> None:
    """Both engines tell the story in the file."""
    told = (HERE / f"{name}.txt").read_text(encoding="utf-8")
    assert table(world, spans_of(world)) == told
    assert table(world, witness.simulate(world)) == told
