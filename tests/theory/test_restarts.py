"""A server that restarts: the same work is done, in the same order, and the gap is in the spans."""

from __future__ import annotations

from typing import Any

import pytest
from checks import checked
from worlds import columns_of, device, stated, world_of

from mobisim.span import DOWN, STEP, TRANSFER, SpanColumns
from mobisim.world import World

IN_THE_MIDDLE = {"windows": [["20 s", "30 s"]]}
AT_RANDOM = {
    "up": {"mean": "9 s", "distribution": "exponential"},
    "down": {"mean": "2 s", "distribution": "exponential"},
}


def fleet(restarts: dict[str, Any] | None, **more: Any) -> World:
    """Ten devices that together keep one worker busy."""
    group = device(2.0, transfer_s=0.7, latency="20 ms", run_ahead=4, count=10)
    return world_of(stated(12, group, step_s=0.45, restarts=restarts, **more))


def whole_steps(columns: SpanColumns) -> list[tuple[int, int, int]]:
    """Who was stepped, in order, and what that wrote."""
    steps = columns[(columns.kind == STEP) & ~columns.cut]
    return list(
        zip(
            steps.device.tolist(),
            steps.batch.tolist(),
            steps.version_written.tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize("restarts", [IN_THE_MIDDLE, AT_RANDOM])
@pytest.mark.parametrize("workers", [1, 3])
def test_everything_is_ingested_once(restarts: dict[str, Any], workers: int) -> None:
    """What was uploaded is stepped exactly once, nothing is uploaded twice, the gaps are told."""
    world, calm = fleet(restarts, workers=workers), fleet(None, workers=workers)
    checked(world)
    columns, expected = columns_of(world), columns_of(calm)
    ingested, due = (sorted(step[:2] for step in whole_steps(c)) for c in (columns, expected))
    assert ingested == due
    assert columns.num_bytes[columns.kind == TRANSFER].sum() == 12 * 10 * 1000
    assert (columns.kind == DOWN).any()


def test_one_worker_goes_on_in_the_same_order() -> None:
    """One device and worker: the same steps, later by the gap and by what it cost."""
    group = device(1.0, transfer_s=0.5, run_ahead=100)
    world, calm = (
        world_of(stated(30, group, step_s=1.25, restarts=restarts))
        for restarts in (IN_THE_MIDDLE, None)
    )
    columns, expected = columns_of(world), columns_of(calm)
    assert whole_steps(columns) == whole_steps(expected)
    (lost,) = columns[(columns.kind == STEP) & columns.cut].spans()
    assert lost.end == 20.0
    assert columns.end[-1] - expected.end[-1] == 10.0 + (lost.end - lost.start)


def test_a_long_gap_is_made_up_by_a_fast_server() -> None:
    """Devices go on while it is down, as far as their run-ahead lets them."""
    slow = device(1.0, transfer_s=0.1, run_ahead=100)
    world, calm = (
        world_of(stated(60, slow, step_s=0.125, restarts=restarts))
        for restarts in (IN_THE_MIDDLE, None)
    )
    assert columns_of(world).end[-1] == columns_of(calm).end[-1]
