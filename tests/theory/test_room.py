"""A server with little room: what it holds, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import columns_of, device, spans_of, stated, world_of

from mobisim.report.metrics import MetricsFold
from mobisim.span import QUEUE, STEP, Block
from mobisim.world import World


def crowd(room: int | None, step_s: float = 0.5) -> World:
    """Ten devices before one worker."""
    group = device(1.0, transfer_s=0.3, latency="50 ms", run_ahead=8, count=10)
    return world_of(stated(12, group, step_s=step_s, room=room))


@pytest.mark.parametrize("room", [1, 3])
def test_no_more_wait_than_there_is_room_for(room: int) -> None:
    """The server's line is that short, all else waits on the devices, and the server is as busy."""
    bounded, free = (
        MetricsFold(world).add(Block(list(spans_of(world)))).totals()
        for world in (crowd(room), crowd(None))
    )
    assert bounded.server_backlog <= room < free.server_backlog
    assert bounded.num_steps == free.num_steps
    assert bounded.device_backlog.max() > free.device_backlog.max()
    assert bounded.makespan_s == pytest.approx(free.makespan_s, rel=0.02)


def test_ample_room_changes_nothing() -> None:
    """As many places as mini-batches: the same rows."""
    assert spans_of(crowd(120)) == spans_of(crowd(None))


@pytest.mark.parametrize(("f", "c", "s"), [(0.2, 0.5, 0.4), (0.2, 0.3, 0.9), (1.5, 0.5, 0.4)])
def test_room_for_one_takes_turns_with_the_link(f: float, c: float, s: float) -> None:
    """The next one sets out as the one before is taken up: a cycle of max(f, c + l, s)."""
    latency = 0.25
    group = device(f, transfer_s=c, latency=f"{latency} s", run_ahead=100)
    columns = columns_of(world_of(stated(60, group, step_s=s, room=1)))
    ends = columns.end[columns.kind == STEP]
    assert np.diff(ends)[20:].mean() == pytest.approx(max(f, c + latency, s), rel=1e-9)


def test_waiting_outside_is_in_the_spans() -> None:
    """What a full server keeps out has a queue span at its uplink."""
    world = crowd(1)
    columns = columns_of(world)
    outside = (columns.kind == QUEUE) & (columns.actor < world.actors.server)
    assert (columns.end - columns.start)[outside].sum() > 100.0
