"""Devices that leave and come back: what they still get done, and that nobody waits for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import checked
from worlds import columns_of, device, spans_of, stated, world_of

from mobisim.span import FORWARD, KINDS, STEP, WAIT, Span
from mobisim.world import World

TAKES_TURNS = {"absences": {"up": "4 s", "down": "10 s"}}
AT_RANDOM = {
    "absences": {
        "up": {"mean": "5 s", "distribution": "exponential"},
        "down": {"mean": "3 s", "distribution": "exponential"},
    }
}
ABRUPTLY = {"absences": AT_RANDOM["absences"] | {"kind": "abrupt"}}
BOTH_KINDS = pytest.mark.parametrize("absences", [AT_RANDOM, ABRUPTLY], ids=["graceful", "abrupt"])
LAYERS = {"granularity": "layer", "side_network": {"bottleneck": 8, "taps": [1, 2, 3]}}


@pytest.mark.parametrize(("forward_s", "per_turn"), [(0.5, 8), (1.5, 3), (4.0, 1)])
def test_a_device_works_while_it_is_there(forward_s: float, per_turn: int) -> None:
    """There for 4 s of every 14, it begins ⌈4 ÷ f⌉ mini-batches and finishes the last one."""
    group = device(forward_s, transfer_s=0.001) | TAKES_TURNS
    spans = spans_of(world_of(stated(17, group, step_s=0.001)))
    begun = [span.start for span in spans if span.kind == FORWARD]
    expected = [k // per_turn * 14.0 + k % per_turn * forward_s for k in range(17)]
    assert begun == expected


@pytest.mark.parametrize(("forward_s", "per_turn"), [(0.5, 8), (1.5, 2), (4.0, 1)])
def test_a_device_that_vanishes_begins_anew(forward_s: float, per_turn: int) -> None:
    """There for 4 s of every 14, it gets ⌊4 ÷ f⌋ mini-batches done and loses the next."""
    group = device(forward_s, transfer_s=0.001) | {
        "absences": TAKES_TURNS["absences"] | {"kind": "abrupt"}
    }
    columns = columns_of(world_of(stated(17, group, step_s=0.001)))
    forwards = columns[columns.kind == FORWARD]
    done = forwards.start[~forwards.cut].tolist()
    assert done == [k // per_turn * 14.0 + k % per_turn * forward_s for k in range(17)]
    lost = 4.0 % forward_s
    assert np.unique((forwards.end - forwards.start)[forwards.cut]).tolist() == [lost] * (lost > 0)


def test_a_transfer_that_is_lost_begins_anew() -> None:
    """What a link of a vanished device carried is carried from its first byte once it is back."""
    away = {"absences": {"windows": [["1.5 s", "10 s"]], "kind": "abrupt"}}
    columns = columns_of(world_of(stated(1, device(1.0, transfer_s=2.0) | away, step_s=0.25)))
    told = [(KINDS[s.kind], s.start, s.end, s.cut) for s in columns.spans()]
    assert told == [
        ("forward", 0.0, 1.0, False),
        ("transfer", 1.0, 1.5, True),
        ("queue", 1.5, 10.0, False),
        ("transfer", 10.0, 12.0, False),
        ("step", 12.0, 12.25, False),
    ]


def churning(absences: dict[str, Any], **more: Any) -> World:
    """Twenty devices, of which 30 % have these absences, and a worker for whatever comes."""
    there, leaving = (
        device(0.5, transfer_s=0.3, latency="20 ms", run_ahead=4, count=count) for count in (14, 6)
    )
    return world_of(stated(25, there, leaving | absences, step_s=0.4, **{"workers": 60, **more}))


@pytest.mark.parametrize("layers", [{}, LAYERS], ids=["batch", "layer"])
@pytest.mark.parametrize("workers", [1, 60])
@BOTH_KINDS
def test_every_mini_batch_is_ingested_once(
    absences: dict[str, Any], workers: int, layers: dict[str, Any]
) -> None:
    """With 30 % of the devices leaving and returning at random, nothing is lost or done twice."""
    world = churning(absences, workers=workers, **layers)
    checked(world)
    columns = columns_of(world)
    steps = columns[(columns.kind == STEP) & ~columns.cut]
    assert sorted(zip(steps.device.tolist(), steps.batch.tolist(), strict=True)) == [
        (device, batch) for device in range(20) for batch in range(25)
    ]


def of_those_who_stay(world: World) -> list[Span]:
    """The spans of the devices that are always there, but for versions and workers."""
    return [
        span._replace(actor=0, version_read=0, version_written=0)
        for span in spans_of(world)
        if span.device < 14
    ]


@pytest.mark.parametrize("layers", [{}, LAYERS], ids=["batch", "layer"])
@BOTH_KINDS
def test_nobody_waits_for_those_who_are_away(
    absences: dict[str, Any], layers: dict[str, Any]
) -> None:
    """With workers enough, those who stay fare as if nobody ever left."""
    left, stayed = (of_those_who_stay(churning(away, **layers)) for away in (absences, {}))
    assert sorted(left) == sorted(stayed)


def test_no_worker_waits_for_who_may_vanish() -> None:
    """Layer by layer, too: their mini-batches are taken up once they are whole."""
    world = churning(ABRUPTLY, **LAYERS)
    columns = columns_of(world)
    at_worker = (columns.kind == WAIT) & (columns.actor > world.actors.server)
    assert set(columns.device[at_worker].tolist()) == set(range(14))
