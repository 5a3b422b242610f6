"""What holds of every run of the engine, whatever the scenario."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from checks import checked
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import (
    blocks_of,
    device,
    random_scenario,
    random_world,
    spans_of,
    stated,
    without_horizon,
    world_of,
)

from mobisim.report.invariants import InvariantFold
from mobisim.report.metrics import MetricsFold, Totals
from mobisim.report.tables import SpanWriter, read_spans
from mobisim.sim.engine import simulate
from mobisim.span import (
    FORWARD,
    LATENCY,
    NONE,
    QUEUE,
    STEP,
    TRANSFER,
    WAIT,
    WORK_KINDS,
    Span,
    SpanColumns,
)
from mobisim.world import Batch, Group, World

RANDOMS = st.randoms(use_true_random=False)


def batch_of(group: Group, number: int) -> Batch:
    """The numbers of a mini-batch."""
    return group.batches[0 if group.order is None else int(group.order[number])]


def devices_of(world: World) -> list[Group]:
    """The group of each device."""
    return [group for group in world.groups for _ in range(group.count)]


def random_either(choose: Random) -> World:
    """A world from a random scenario, or one that no scenario gives."""
    if choose.random() < 0.5:
        return world_of(random_scenario(choose))
    return random_world(choose)


@given(RANDOMS)
def test_each_mini_batch_is_stepped_exactly_once(choose: Random) -> None:
    """Every mini-batch of every device has one step, in the order of its device."""
    world = without_horizon(random_either(choose))
    steps = [span for span in spans_of(world) if span.kind == STEP]
    due = [(i, k) for i, group in enumerate(devices_of(world)) for k in range(group.num_batches)]
    assert sorted((span.device, span.batch) for span in steps) == due
    assert [span.version_written for span in steps] == list(range(1, len(due) + 1))


@given(RANDOMS)
def test_each_part_passes_each_stage_once(choose: Random) -> None:
    """Every part has one forward and one transfer, and a latency where its link has one."""
    world = without_horizon(random_either(choose))
    count = Counter((s.kind, s.device, s.batch, s.tap) for s in spans_of(world))
    for i, group in enumerate(devices_of(world)):
        for k in range(group.num_batches):
            for part in batch_of(group, k).parts:
                assert count[FORWARD, i, k, part.tap] == count[TRANSFER, i, k, part.tap] == 1
                assert count[LATENCY, i, k, part.tap] == (group.latency_s > 0)


@given(RANDOMS)
def test_one_actor_does_one_thing_at_a_time(choose: Random) -> None:
    """Work and waits of one device or worker, and work of one link, never overlap."""
    world = random_either(choose)
    free_at: dict[int, float] = defaultdict(float)
    for span in spans_of(world):
        if span.kind in (*WORK_KINDS, WAIT):
            assert span.start >= free_at[span.actor]
            free_at[span.actor] = span.end


@given(RANDOMS)
def test_devices_account_for_all_their_time(choose: Random) -> None:
    """A device works or waits without a gap from 0 until its last part is handed over."""
    world = without_horizon(random_either(choose))
    at: dict[int, float] = defaultdict(float)
    for span in spans_of(world):
        if span.actor < world.actors.num_devices:
            assert span.start == at[span.actor]
            at[span.actor] = span.end


@given(RANDOMS)
def test_bytes_are_conserved(choose: Random) -> None:
    """What the links carried is what the messages weigh, device by device."""
    world = without_horizon(random_either(choose))
    carried: Counter[int] = Counter()
    for span in spans_of(world):
        if span.kind == TRANSFER:
            carried[span.device] += span.num_bytes
    for i, group in enumerate(devices_of(world)):
        batches = [batch_of(group, k) for k in range(group.num_batches)]
        assert carried[i] == sum(part.num_bytes for batch in batches for part in batch.parts)


@given(RANDOMS)
def test_credit_bounds_the_run_ahead(choose: Random) -> None:
    """Forward k starts no earlier than the first work of a worker on mini-batch k - r."""
    world = random_either(choose)
    begun: dict[tuple[int, int], float] = {}
    taken: dict[tuple[int, int], float] = {}
    for span in spans_of(world):
        if span.kind == FORWARD:
            begun.setdefault((span.device, span.batch), span.start)
        elif span.actor > world.actors.server:
            taken.setdefault((span.device, span.batch), span.start)
    groups = devices_of(world)
    for (i, k), start in begun.items():
        before = k - groups[i].run_ahead
        assert before < 0 or start >= taken.get((i, before), 0.0)


@given(RANDOMS)
def test_no_makespan_below_the_busiest_actor(choose: Random) -> None:
    """The makespan is at least the longest time that any actor is busy."""
    totals = totals_of(random_either(choose))
    assert totals.busy_s.max() <= totals.makespan_s * (1 + 1e-12)


@given(RANDOMS, st.integers(1, 40))
def test_block_size_does_not_change_the_stream(choose: Random, block_rows: int) -> None:
    """Rows are the same however they are cut; only the last block is short."""
    world = random_either(choose)
    blocks = [block.rows for block in simulate(world, block_rows)]
    assert [Span(*row) for rows in blocks for row in rows] == spans_of(world)
    assert all(len(rows) == block_rows for rows in blocks[:-1])


@given(RANDOMS, st.integers(1, 40))
@settings(max_examples=200)
def test_invariants_accept_every_run(choose: Random, block_rows: int) -> None:
    """The numbered invariants hold on any world, whole or cut into small blocks."""
    world = random_either(choose)
    fold = InvariantFold(world)
    for block in simulate(world, block_rows):
        fold.add(block.columns)
    if world.horizon_s is None:
        fold.finish()


def test_invariants_accept_work_too_short_for_the_clock() -> None:
    """Work that a double cannot add to the clock is no breach."""
    group = device(1e6, transfer_s=1e-12, payload_bytes=1)
    world = world_of(stated(20, group, step_s=1e-11, payload_bytes=1))
    assert checked(world).num_steps == 20


@given(RANDOMS, st.integers(1, 40))
def test_totals_do_not_depend_on_the_block_size(choose: Random, block_rows: int) -> None:
    """Counts are equal, sums equal but for rounding, however the stream is cut."""
    world = random_either(choose)
    whole, cut = totals_of(world), totals_of(world, block_rows)
    assert _counts(whole) == _counts(cut)
    np.testing.assert_allclose(whole.seconds, cut.seconds, rtol=1e-12)
    np.testing.assert_allclose(whole.busy_s, cut.busy_s, rtol=1e-12)


def totals_of(world: World, block_rows: int = 10**6) -> Totals:
    """The totals of a run."""
    fold = MetricsFold(world)
    for block in blocks_of(spans_of(world), block_rows):
        fold.add(block)
    return fold.totals()


@given(RANDOMS)
def test_backlogs_are_the_most_that_ever_waited(choose: Random) -> None:
    """The peaks that memory rests on, counted again from when each message comes and goes."""
    world = without_horizon(random_either(choose))
    totals, spans, actors = totals_of(world), spans_of(world), world.actors
    queued = {(s.actor, s.device, s.batch, s.tap): s for s in spans if s.kind == QUEUE}
    at_server = [(s.start, s.end) for key, s in queued.items() if key[0] == actors.server]
    assert totals.server_backlog == _most_at_once(at_server)
    for i, peak in enumerate(totals.device_backlog.tolist()):
        sent = [s for s in spans if s.kind == TRANSFER and s.device == i]
        made = [queued.get((s.actor, i, s.batch, s.tap), s).start for s in sent]
        assert peak == _most_at_once(list(zip(made, (s.end for s in sent), strict=True)))


def _most_at_once(stays: list[tuple[float, float]]) -> int:
    changes = sorted([(end, -1) for _, end in stays] + [(start, 1) for start, _ in stays])
    return max(accumulate((change for _, change in changes), initial=0))


def _counts(totals: Totals) -> list[object]:
    return [
        totals.start,
        totals.end,
        totals.num_spans,
        totals.num_steps,
        totals.num_cut,
        totals.uplink_bytes,
        totals.uplink_payload_bytes,
        totals.downlink_bytes,
        totals.device_backlog.tolist(),
        totals.server_backlog,
        totals.blame,
    ]


@given(choose=RANDOMS)
@settings(max_examples=25)
def test_same_seed_same_bytes(choose: Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same world gives a byte-identical spans.parquet, which reads back as it was."""
    world = random_either(choose)
    folder = tmp_path_factory.mktemp("twice")
    first, second = (_written(world, folder / name) for name in ("first", "second"))
    assert first == second
    read = SpanColumns.concatenate(read_spans(folder / "first"))
    assert list(read.spans()) == spans_of(world)


def _written(world: World, path: Path) -> bytes:
    with SpanWriter(path, world.actors.names) as writer:
        for block in simulate(world):
            writer.add(block.columns)
    return path.read_bytes()


@given(RANDOMS)
def test_a_horizon_keeps_an_exact_prefix(choose: Random) -> None:
    """All that ends by the horizon is as without one, and what was open then is cut there."""
    world = without_horizon(random_either(choose))
    whole = spans_of(world)
    horizon = choose.uniform(0.0, whole[-1].end)
    spans = spans_of(replace(world, horizon_s=horizon))
    kept = [span for span in spans if not span.cut]
    assert kept == whole[: len(kept)]
    assert len(kept) == sum(span.end <= horizon for span in whole)
    open_then = {
        (*span[:2], span.start, span.batch, span.tap)
        for span in whole[len(kept) :]
        if span.start < horizon
    }
    assert {(*s[:2], s.start, s.batch, s.tap) for s in spans if s.cut} == open_then


RANDOM_DEVICE: dict[str, Any] = {
    "forward_s": {"mean": "1 s", "distribution": "exponential"},
    "encode_s": {"mean": "0.2 s", "distribution": "exponential"},
    "latency": {"mean": "0.1 s", "distribution": "exponential"},
}


def _drawn(world: World, kind: int, num_batches: int) -> list[float]:
    """How long the first device's pieces of work of a kind lasted."""
    lasted = {s.batch: s.end - s.start for s in spans_of(world) if s.kind == kind and s.device == 0}
    return [lasted[k] for k in range(num_batches)]


@pytest.mark.parametrize("kind", [FORWARD, 1])
def test_draws_of_one_device_are_its_own(kind: int) -> None:
    """More mini-batches, a second device or another link leave the first device's draws alone."""
    plain = device(**RANDOM_DEVICE)
    expected = _drawn(world_of(stated(20, plain, step_s=0.1)), kind, 20)
    assert len(set(expected)) == 20
    for changed in (
        stated(60, plain, step_s=0.1),
        stated(20, plain, device(**RANDOM_DEVICE), step_s=0.1),
        stated(20, plain | {"count": 3}, step_s=0.1),
        stated(20, device(**RANDOM_DEVICE, transfer_s=7.0), step_s=0.5),
    ):
        assert _drawn(world_of(changed), kind, 20) == pytest.approx(expected, rel=1e-9)


def test_other_seeds_draw_otherwise() -> None:
    """The scenario's seed decides the draws."""
    first, second = (
        _drawn(world_of(stated(20, device(**RANDOM_DEVICE), step_s=0.1, seed=seed)), FORWARD, 20)
        for seed in (1, 2)
    )
    assert not set(first) & set(second)


def test_a_reader_that_stops_stops_the_run() -> None:
    """The engine is lazy: the first block of an endless pipeline costs one block."""
    world = world_of(stated(10**9, device(1.0), step_s=1.0))
    block = next(simulate(world, block_rows=100))
    assert len(block.rows) == 100
    assert all(row[8] == NONE for row in block.rows if row[0] != STEP)
