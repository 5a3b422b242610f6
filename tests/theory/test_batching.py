"""A server that waits for several mini-batches: how long they wait, and what that brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import witness
from checks import check_invariants, checked
from worlds import (
    batched,
    bounded,
    columns_of,
    device,
    failing,
    federated,
    random_world,
    spans_of,
    stated,
    with_cache,
    without_horizon,
    world_of,
)

from mobisim.errors import InputError, InvariantError
from mobisim.report.invariants import InvariantFold
from mobisim.scenario.load import load
from mobisim.sim.batching import BatchingServer
from mobisim.simulation import simulate
from mobisim.span import JOINT, QUEUE, STEP, Span
from mobisim.world import World

Sort = Callable[[Random, World], World]


def plain(_: Random, world: World) -> World:
    """As it is."""
    return world


def worlds_of(sort: Sort, count: int) -> list[World]:
    """Worlds whose server batches, with devices that leave and restarts in every other."""
    found = []
    for seed in range(count):
        choose = Random(seed)
        world = sort(choose, random_world(choose))
        found.append(batched(choose, failing(choose, world) if seed % 2 else world))
    return found


SORTS = [plain, with_cache, federated, bounded]


@pytest.mark.parametrize("sort", SORTS)
def test_engines_agree(sort: Sort) -> None:
    """Row by row: disciplines, workers, layers, caches, replays, room, restarts, horizons."""
    for seed, world in enumerate(worlds_of(sort, 60)):
        assert spans_of(world) == witness.simulate(world), f"seed {seed}"


@pytest.mark.parametrize("sort", SORTS)
def test_invariants_and_blame_hold(sort: Sort) -> None:
    """In blocks as in one, and the chain of causes fills the makespan."""
    joint = 0
    for seed, world in enumerate(map(without_horizon, worlds_of(sort, 40))):
        totals = checked(world)
        assert totals.num_learned == totals.stepped.sum() == world.total_steps, f"seed {seed}"
        joint += totals.num_learned - totals.num_steps
    assert joint > 50


@pytest.mark.parametrize(("window_s", "most"), [(0.0, 1), (5.0, 1)])
def test_one_at_a_time_is_no_batching(window_s: float, most: int) -> None:
    """Bit by bit: with one mini-batch in each step nobody waits for another."""
    for seed in range(60):
        choose = Random(seed)
        world = choose.choice(SORTS)(choose, random_world(choose))
        batching = batched(choose, world).batching
        assert batching is not None
        alone = replace(world, batching=replace(batching, window_s=window_s, most=most))
        assert spans_of(alone) == spans_of(world), f"seed {seed}"


def rhythm(num_batches: int, **batching: Any) -> World:
    """One device that sends a mini-batch each second, before a quick server."""
    group = device(1.0, transfer_s=0.125, run_ahead=100)
    return world_of(stated(num_batches, group, step_s=0.0625, batching=batching))


def waits(world: World) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of each mini-batch at the server; those that waited for nothing have no span."""
    columns = columns_of(world)
    queued = columns[(columns.kind == QUEUE) & (columns.actor == world.actors.server)]
    found = np.zeros(world.total_batches)
    found[queued.batch] = queued.end - queued.start
    return found


@pytest.mark.parametrize(
    ("window", "most", "expected"),
    [
        ("2.5 s", 10, [2.5, 1.5, 0.5]),  # a window opens with the first, and closes by itself
        ("3 s", 10, [3.0, 2.0, 1.0, 0.0]),  # what comes as it closes is taken as well
        ("10 s", 3, [2.0, 1.0, 0.0]),  # or closes with the last that a step is on
        ("0 s", 3, [0.0]),
    ],
)
def test_waits_with_arrivals_in_rhythm(window: str, most: int, expected: list[float]) -> None:
    """min(window, (most - 1) / rate) for the first, a beat less for each that follows."""
    found = waits(rhythm(12 * len(expected), window=window, most=most))
    windows = len(found) - len(expected)  # what is left in the end waits for nobody
    assert found[:windows] == pytest.approx(np.tile(expected, 11), abs=1e-12)


def test_the_end_waits_for_nobody() -> None:
    """What is left when the last mini-batch of all has come is taken at once."""
    found = waits(rhythm(8, window="60 s", most=3))
    assert found == pytest.approx([2.0, 1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_a_busy_server_steps_faster_by_what_it_pays_once(shared: float) -> None:
    """Four at once take s * (shared + 4 * (1 - shared)): so many more get through."""
    group = device(1.0, transfer_s=0.1, run_ahead=8, count=40)
    batching = {"window": "0 s", "most": 4, "shared": shared}
    world = world_of(stated(20, group, step_s=0.5, batching=batching))
    columns = columns_of(world)
    ends = columns.end[columns.kind == STEP]
    assert np.diff(ends)[20:-20].mean() == pytest.approx(0.5 * (4 - 3 * shared), rel=1e-9)


def test_what_batching_brings_to_the_shipped_fleet() -> None:
    """The server's busy share falls by half and all are done sooner: it was too slow alone."""
    together, alone = (
        simulate(load("shared_server_batching", ["num_batches=10", *more])).summary
        for more in ([], ["server.batching=null"])
    )
    busy = [found.utilisation["server/worker-0"] for found in (together, alone)]
    assert busy[0] < 0.55
    assert busy[1] > 0.9
    assert together.makespan_s is not None
    assert alone.makespan_s is not None
    assert together.makespan_s < alone.makespan_s
    assert together.num_learned == alone.num_steps == 6000
    assert together.num_steps < 6000 / 6


def test_nothing_is_lost_where_a_third_is_away() -> None:
    """Each mini-batch that came up is learned from once, whoever leaves meanwhile."""
    away = {
        "up": {"mean": "14 s", "distribution": "exponential"},
        "down": {"mean": "6 s", "distribution": "exponential"},
    }
    group = device(1.0, transfer_s=0.5, run_ahead=4, count=30) | {"absences": away}
    scenario = stated(10, group, step_s=0.25, batching={"window": "2 s", "most": 8})
    world = world_of(scenario)
    checked(world)
    columns = columns_of(world)
    learned = columns[np.isin(columns.kind, (STEP, JOINT))]
    pairs = set(zip(learned.device.tolist(), learned.batch.tolist(), strict=True))
    assert len(pairs) == len(learned) == 300


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        (None, 1),
        ({"version_written": 7}, 15),
        ({"version_read": 5}, 15),
        ({"batch": 0}, 1),
        ({"kind": STEP}, 8),
    ],
)
def test_broken_joint_steps_are_found(changes: dict[str, Any] | None, number: int) -> None:
    """A mini-batch that is named twice, not at all, or by another step."""
    world = rhythm(6, window="10 s", most=3)
    seen: list[Span] = []

    def change(span: Span) -> Span | None:
        if seen or span.kind != JOINT:
            return span
        seen.append(span)
        return None if changes is None else span._replace(**changes)

    spans = [span for span in map(change, spans_of(world)) if span is not None]
    with pytest.raises(InvariantError) as caught:
        check_invariants(world, spans)
    assert caught.value.number == number


def test_more_than_the_server_takes_is_found() -> None:
    """Three in a step of a server that takes two at once."""
    world = rhythm(6, window="10 s", most=3)
    assert world.batching is not None
    checks = InvariantFold(replace(world, batching=replace(world.batching, most=2)))
    with pytest.raises(InvariantError) as caught:
        checks.add(columns_of(world))
    assert caught.value.number == 15


def late_windows(patch: pytest.MonkeyPatch) -> None:
    """The window opens with the last mini-batch in place of the first."""

    def window_ends(self: BatchingServer) -> float:
        return self.line_up[-1].since + self.batching.window_s

    patch.setattr(BatchingServer, "_window_ends", window_ends)


def the_end_waits(patch: pytest.MonkeyPatch) -> None:
    """What is left in the end waits for the window."""
    is_due = BatchingServer._is_due

    def never_done(self: BatchingServer) -> bool:
        self.total_batches, total = -1, self.total_batches
        found = is_due(self)
        self.total_batches = total
        return found

    patch.setattr(BatchingServer, "_is_due", never_done)


@pytest.mark.parametrize("mutate", [late_windows, the_end_waits])
def test_a_mutated_engine_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each deliberate defect shows in the comparison with the second engine."""
    worlds = worlds_of(plain, 40)
    expected = [witness.simulate(world) for world in worlds]
    mutate(monkeypatch)
    assert any(spans_of(world) != rows for world, rows in zip(worlds, expected, strict=True))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("method=server-only", "side network"),
        ("method=split-lora", "side network"),
        ("server.batching.shared=0.5", "stated times"),
        ("server.batching.most=0", "most"),
        ("server.batching.window=-1 s", "window"),
    ],
)
def test_what_is_not_covered_is_refused(override: str, told: str) -> None:
    """By name."""
    batching = "server.batching={window: 5 ms, most: 4}"
    with pytest.raises(InputError, match=told):
        world_of(load("layer_streaming", ["num_batches=4", batching, override]))
