"""Rounds that are buffered: how fast versions come, and how stale what makes them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import witness
from checks import check_invariants
from worlds import (
    columns_of,
    device,
    in_buffers,
    random_world,
    rounds_of,
    spans_of,
    stated,
)

from mobisim.errors import InputError, InvariantError
from mobisim.prepare import Options, prepare
from mobisim.rounds import BUFFER, rounds_work
from mobisim.scenario.federation import Rounds
from mobisim.scenario.load import load
from mobisim.sim.buffered import Buffer
from mobisim.span import DOWNLOAD, MERGE, NONE, STEP, Span, SpanColumns
from mobisim.world import Calls, World

FORWARDS_S = (1.0, 2.0, 5.5)


def _buffered(count: int, at_work: int, awaited: int, *forwards_s: float) -> World:
    """Phones with a mini-batch each time, links of a second, and a server that takes no time."""
    everybody = len(forwards_s)
    scenario = stated(1, *(device(each) for each in forwards_s), step_s=1.0)
    nobody: list[list[int]] = [[] for _ in range(count)]
    world = rounds_of(scenario, selected=nobody, local=[1] * everybody, awaited=awaited)
    assert world.rounds is not None
    calls = Calls(np.arange(everybody, dtype=np.int32), at_work)
    return replace(world, rounds=replace(world.rounds, calls=calls, average_s=1e-9))


def _merging_at_once(world: World) -> World:
    groups = [
        replace(group, exchange=replace(group.exchange, merge_s=1e-9))  # type: ignore[type-var]
        for group in world.groups
    ]
    return replace(world, groups=tuple(groups))


def _staleness(columns: SpanColumns) -> list[int]:
    """Of each update: versions that were made since the one that it began from."""
    made = np.cumsum(columns.kind == STEP)
    merges = columns.kind == MERGE
    return [int(late) for late in made[merges] - columns.version_read[merges]]


@pytest.mark.parametrize("awaited", [1, 2, 3])
def test_versions_come_at_the_devices_rates_together(awaited: int) -> None:
    """In steady state sum(1 / a device's cycle) / K, all at work and nobody waiting for others."""
    world = _merging_at_once(_buffered(4000, 3, awaited, *FORWARDS_S))
    ends = columns_of(world).end[columns_of(world).kind == STEP]
    cycles_s = [2 * 1.0 + forward_s + 1.0 + 0.5 for forward_s in FORWARDS_S]  # links, back, update
    rate = (len(ends) - 400) / (ends[-1] - ends[399])
    assert rate == pytest.approx(sum(1 / cycle_s for cycle_s in cycles_s) / awaited, rel=1e-3)


def test_one_device_and_a_buffer_of_one_take_turns() -> None:
    """As a synchronous round: nothing is ever stale."""
    alone = columns_of(_buffered(5, 1, 1, 1.0))
    assert _staleness(alone) == [0] * 5
    scenario = stated(1, device(1.0), step_s=1.0)
    rounds = rounds_of(scenario, selected=[[0]] * 5, local=[1], awaited=1, average_s=1e-9)
    assert list(alone.spans()) == list(columns_of(rounds).spans())


def test_the_staleness_of_a_slow_device_is_what_others_did_meanwhile() -> None:
    """One is through four times, once for each version, when the other comes."""
    world = _buffered(8, 2, 1, 1.0, 20.0)
    columns = columns_of(world)
    merged = columns[columns.kind == MERGE].device.tolist()
    assert merged == [0, 0, 0, 0, 1, 0, 0, 0]
    assert _staleness(columns) == [0, 0, 0, 0, 4, 1, 0, 0]
    steps = columns[columns.kind == STEP]
    assert (steps.version_written - 1 - steps.version_read).tolist() == _staleness(columns)


def test_a_step_reads_the_oldest_version_of_its_buffer() -> None:
    """So that its staleness is that of the stalest update; the others' are in the merges."""
    for seed in range(40):
        choose = Random(seed)
        world = replace(in_buffers(choose, random_world(choose)), horizon_s=None)
        assert world.rounds is not None
        columns = columns_of(world)
        read = columns.version_read[columns.kind == MERGE].tolist()
        size = world.rounds.awaited
        buffers = [read[first : first + size] for first in range(0, len(read), size)]
        steps = columns.version_read[columns.kind == STEP].tolist()
        assert steps == [min(buffer) for buffer in buffers[: len(steps)]]


def test_so_many_are_at_work_and_no_more() -> None:
    """Two of five: calls begin with two, and one goes out for each update that came in."""
    columns = columns_of(_buffered(6, 2, 2, *([1.0] * 5)))
    calls = columns[(columns.kind == DOWNLOAD) & (columns.version_read != NONE)]
    assert sorted(calls.start.tolist())[:2] == [0.0, 0.0]
    merges = columns.end[columns.kind == MERGE]
    for instant in calls.start[2:].tolist():
        assert np.sum(calls.start <= instant) <= 2 + np.sum(merges <= instant)
    order = calls.device[np.argsort(calls.start, kind="stable")].tolist()
    assert order[:7] == [0, 1, 2, 3, 4, 0, 1]


def test_the_line_is_drawn_by_the_seed() -> None:
    """Those with data alone stand in it; a buffer holds ten unless fewer are at work."""
    fleet = np.array([4, 0, 2, 6])
    work = rounds_work(Rounds(), fleet, 3, seed=5, buffered=True)
    assert work.calls is not None
    assert sorted(work.calls.line.tolist()) == [0, 2, 3]
    assert (work.awaited, work.calls.at_work, len(work.selected)) == (3, 3, 3)
    many = rounds_work(Rounds(participants=50), np.full(200, 2), 3, seed=5, buffered=True)
    assert many.awaited == BUFFER
    assert len(many.selected) == 3 * 200 // BUFFER
    assert many.calls is not None
    assert many.calls.line.tolist() != sorted(many.calls.line.tolist())


def _forget_to_call(patch: pytest.MonkeyPatch) -> None:
    """Whose update fills the buffer leaves the line for good."""
    averaged = Buffer.averaged

    def without(self: Buffer) -> None:
        self.line.appendleft(self.held[-1].device)
        averaged(self)

    patch.setattr(Buffer, "averaged", without)


def _always_newest(patch: pytest.MonkeyPatch) -> None:
    """The step says that all was learned from the newest version."""
    merged = Buffer.merged

    def fresh(self: Buffer, update) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        part = replace(update.part, version=self.version)
        merged(self, update._replace(part=part))

    patch.setattr(Buffer, "merged", fresh)


@pytest.mark.parametrize("mutate", [_forget_to_call, _always_newest])
def test_a_mutated_engine_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each deliberate defect shows in the comparison with the second engine."""
    worlds = []
    for seed in range(40):
        choose = Random(seed)
        worlds.append(in_buffers(choose, random_world(choose)))
    expected = [witness.simulate(world) for world in worlds]
    mutate(monkeypatch)
    assert any(spans_of(world) != rows for world, rows in zip(worlds, expected, strict=True))


@pytest.mark.parametrize(
    ("kind", "changes", "number"),
    [
        (MERGE, None, 14),
        (MERGE, {"version_read": 1}, 14),
        (STEP, {"batch": 5}, 14),
        (DOWNLOAD, {"num_bytes": 999}, 6),
        (DOWNLOAD, {"device": 1}, 14),
    ],
)
def test_broken_buffers_are_found(kind: int, changes: dict[str, int] | None, number: int) -> None:
    """An update that is lost or of another version, who is called twice, a buffer not full."""
    seen: list[Span] = []

    world = _buffered(4, 2, 2, 1.0, 2.0)

    def change(span: Span) -> Span | None:
        if seen or span.kind != kind:
            return span
        seen.append(span)
        return None if changes is None else span._replace(**changes)  # type: ignore[arg-type]

    spans = [span for span in map(change, spans_of(world)) if span is not None]
    with pytest.raises(InvariantError) as caught:
        check_invariants(world, spans)
    assert caught.value.number == number


@pytest.mark.parametrize(
    ("method", "rounds", "where"),
    [
        ("fedbuff-lora", "{buffer: 5}", "federation.rounds.buffer"),
        ("fedbuff-lora", "{buffer: 3, participants: 2}", "federation.rounds.buffer"),
        ("fedbuff-lora", "{deadline: 1 min}", "federation.rounds"),
        ("fedbuff-lora", "{over_selection: 1.5}", "federation.rounds"),
        ("fedbuff-lora", "{server_lr: 0}", "federation.rounds.server_lr"),
        ("fedavg-lora", "{buffer: 2}", "federation.rounds.buffer"),
        ("fedavg-lora", "{server_lr: 0.5}", "federation.rounds.server_lr"),
    ],
)
def test_what_cannot_be_is_refused(method: str, rounds: str, where: str) -> None:
    """With the field."""
    asked = [f"method={method}", "devices[0].count=4", f"federation={{rounds: {rounds}}}"]
    with pytest.raises(InputError) as caught:
        prepare(load("wifi_5mbps", asked), Options(train=False))
    assert str(caught.value.where).endswith(where)
