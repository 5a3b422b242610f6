"""Rounds: how long they last, who is in them, both engines, invariants and blame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import witness
from checks import check_invariants, checked
from worlds import (
    assert_alike,
    columns_of,
    cut_before_little_room,
    cut_in_rounds,
    device,
    in_buffers,
    in_conditions,
    in_rounds,
    random_world,
    rounds_of,
    spans_of,
    stated,
    without_horizon,
    world_of,
)

from mobisim.errors import InvariantError
from mobisim.report.metrics import BacklogFold
from mobisim.scenario.load import load
from mobisim.sim.job import Client
from mobisim.sim.participant import Participant
from mobisim.sim.rounds import Coordinator
from mobisim.span import (
    DOWNLOAD,
    FORWARD,
    MERGE,
    NONE,
    QUEUE,
    REPLY,
    STEP,
    TRANSFER,
    UPDATE,
    WAIT,
    Span,
    SpanColumns,
)
from mobisim.world import Batch, World

SWEEP = range(150)


@pytest.mark.parametrize(
    ("sort", "seeds"),
    [
        (in_rounds, SWEEP),
        (cut_in_rounds, SWEEP),
        (in_buffers, SWEEP),
        (cut_before_little_room, range(40)),
    ],
)
def test_engines_agree_on_rounds(sort: Callable[[Random, World], World], seeds: range) -> None:
    """The same rows in the same order: random fleets, selections, deadlines and horizons."""
    for seed in seeds:
        choose = Random(seed)
        world = sort(choose, random_world(choose))
        assert spans_of(world) == witness.simulate(world), f"seed {seed}"


@pytest.mark.parametrize("sort", [in_rounds, in_buffers])
def test_engines_agree_on_warm_and_tired_participants(
    sort: Callable[[Random, World], World],
) -> None:
    """Who gives up after a rest does so in both."""
    for seed in SWEEP:
        choose = Random(seed)
        world = sort(choose, random_world(choose, shared=False))
        world = replace(in_conditions(choose, world), contention=None)
        assert_alike(spans_of(world), witness.simulate(world), f"seed {seed}")


@pytest.mark.parametrize("sort", [in_rounds, cut_in_rounds, in_buffers, cut_before_little_room])
def test_invariants_hold_and_blame_fills_the_makespan(
    sort: Callable[[Random, World], World],
) -> None:
    """Block by block, with devices that give up and updates that come too late."""
    given_up = late = 0
    for seed in SWEEP:
        choose = Random(seed)
        world = without_horizon(sort(choose, random_world(choose)))
        assert world.rounds is not None
        spans = spans_of(world)
        assert checked(world, spans).num_steps == world.total_steps, f"seed {seed}"
        kinds = [span.kind for span in spans]
        updates = np.bincount([span.device for span in spans if span.kind == UPDATE])
        given_up += any(updates % world.rounds.local[: len(updates)])
        late += kinds.count(TRANSFER) - kinds.count(MERGE) - kinds.count(REPLY)
    assert (given_up > 0) == (late > 0) == (sort in (in_rounds, in_buffers))


def _fleet(*overrides: str) -> tuple[World, SpanColumns]:
    """Phones and boards over Wi-Fi and LTE that train OPT-350M together, and stay cool."""
    groups = (
        "devices=[{profile: jetson-xavier-nx, count: 2, link: wifi-5mbps},"
        "{profile: pixel-8, count: 3, link: lte}, {profile: oneplus-12, link: wifi-20mbps}]"
    )
    world = world_of(
        load("layer_streaming", ["num_batches=4", "method=fedavg-lora", groups, *overrides])
    )
    world = replace(world, groups=tuple(replace(group, heat=None) for group in world.groups))
    return world, columns_of(world)


def _participation_s(world: World, index: int) -> float:
    """Down, all mini-batches of a time through the device's own, and up again."""
    group, rounds = world.groups[world.group_of[index]], world.rounds
    exchange, order = group.exchange, group.order
    assert exchange is not None
    assert rounds is not None
    first, own = int(world.firsts[index]), int(world.batches_of[index])
    trains_s = 0.0
    for number in range(int(rounds.local[index])):
        batch = group.batches[0 if order is None else order[first + number % own]]
        trains_s += batch.parts[0].forward_s + batch.backward_s + batch.step_s
    return float(exchange.down_s + exchange.up_s + 2 * group.latency_s + trains_s)


def test_a_cut_model_waits_for_the_server_in_each_mini_batch() -> None:
    """One device at a time: down, mini-batches that nothing overlaps, and up again."""
    world, columns = _fleet(
        "method=splitfed-lora", "federation.rounds={count: 4, participants: 1}", "deliver=none"
    )
    rounds = world.rounds
    assert rounds is not None
    expected = []
    for (index,) in rounds.selected.tolist():
        group = world.groups[world.group_of[index]]
        batch, exchange = group.batches[0], group.exchange
        assert exchange is not None
        (part,) = batch.parts
        up = part.forward_s + part.encode_s + part.transfer_s + group.latency_s
        down = batch.reply_s + group.latency_s + batch.backward_s
        each = up + part.decode_s + batch.step_s + down
        crosses = exchange.down_s + exchange.up_s + 2 * group.latency_s
        averages = exchange.merge_s + rounds.average_s
        expected.append(crosses + rounds.local[index] * each + averages)
    ends = columns.end[columns.kind == STEP]
    assert np.diff(ends, prepend=0.0) == pytest.approx(expected, rel=1e-12)


def _merges_s(world: World, devices: list[int]) -> float:
    exchanges = [world.groups[world.group_of[index]].exchange for index in devices]
    return float(sum(exchange.merge_s for exchange in exchanges if exchange is not None))


@pytest.mark.parametrize(
    "overrides",
    [
        ("federation.rounds.count=3",),
        ("federation.rounds.count=4", "federation.rounds.local_steps=2"),
        ("federation.rounds.count=6", "federation.rounds.participants=3"),
        ("federation.rounds.count=3", "federation.partition={kind: quantity, alpha: 0.5}"),
        ("federation.rounds.count=2", "method=fedavg-adapters", "federation.rounds.local_epochs=2"),
    ],
    ids=" ".join,
)
def test_a_round_lasts_as_long_as_its_slowest_participant(overrides: tuple[str, ...]) -> None:
    """Of whoever was selected; then the average, which grows with how many there are."""
    world, columns = _fleet(*overrides)
    rounds = world.rounds
    assert rounds is not None
    expected = [
        max(_participation_s(world, index) for index in selected)
        + _merges_s(world, selected)
        + rounds.average_s
        for selected in rounds.selected.tolist()
    ]
    ends = columns.end[columns.kind == STEP]
    assert np.diff(ends, prepend=0.0) == pytest.approx(expected, rel=1e-12)


def _phones(*forwards_s: float, **rounds: object) -> SpanColumns:
    """Two rounds of phones that all take part, with links of 1 s and two mini-batches each."""
    everybody = list(range(len(forwards_s)))
    scenario = stated(2, *(device(each) for each in forwards_s), step_s=1.0)
    given = {"selected": [everybody] * 2, "local": [2] * len(everybody)}
    return columns_of(rounds_of(scenario, **{"awaited": len(everybody), **given, **rounds}))


def _merged(columns: SpanColumns) -> list[int]:
    return [int(device) for device in columns.device[columns.kind == MERGE]]


def test_a_deadline_leaves_the_slow_out() -> None:
    """Phones are through after 7 and 21 s: the deadline ends a round with those in time."""
    columns = _phones(1.0, 1.0, 8.0, deadline_s=10.0)
    assert _merged(columns) == [0, 1, 0, 1]
    assert columns.end[columns.kind == STEP].tolist() == [11.0, 22.0]
    slow = columns[columns.device == 2]
    assert np.sum(slow.kind == UPDATE) == 2  # of each round one mini-batch, begun before its end
    assert not np.any(slow.kind == TRANSFER)


def test_what_arrives_at_the_deadline_counts() -> None:
    """And a round in which nothing has come goes on till something does."""
    assert _merged(_phones(1.0, 2.0, deadline_s=9.0)) == [0, 1, 0, 1]
    late = _phones(3.0, 4.0, deadline_s=2.0)
    assert _merged(late) == [0, 0]
    assert late.end[late.kind == STEP].tolist() == [11.75, 23.5]


def test_over_selection_waits_for_the_first_only() -> None:
    """Three are asked, two are waited for; the third stops, and its update would not count."""
    columns = _phones(1.0, 1.0, 8.0, awaited=2)
    assert _merged(columns) == [0, 1, 0, 1]
    assert columns.end[columns.kind == STEP].tolist() == [8.0, 16.0]


def test_a_busy_downlink_brings_the_newest_version_next() -> None:
    """One of a byte a second brings none of the versions that came and went meanwhile."""
    phones = device(1.0), device(1.0, downlink="100 bit/s")
    everybody = [[0, 1]] * 30
    world = rounds_of(stated(1, *phones, step_s=1.0), selected=everybody, local=[1, 1], awaited=1)
    columns = columns_of(world)
    assert spans_of(world) == witness.simulate(world)
    slow = columns[(columns.kind == DOWNLOAD) & (columns.device == 1)]
    steps = columns.end[columns.kind == STEP]
    expected = np.searchsorted(steps, slow.end[0], side="right")
    assert slow.version_read[:2].tolist() == [0, expected]
    assert slow.start[1] == slow.end[0] == 80.0


def test_devices_begin_where_they_are() -> None:
    """A device of the second round begins its first mini-batches; one of both, its next ones."""
    scenario = stated(2, device(1.0, count=3), step_s=1.0)
    world = rounds_of(scenario, selected=[[0, 1], [1, 2]], local=[2] * 3, awaited=2)
    forwards = columns_of(world)
    forwards = forwards[forwards.kind == FORWARD]
    of = {index: forwards.batch[forwards.device == index].tolist() for index in range(3)}
    assert of == {0: [0, 1], 1: [0, 1, 2, 3], 2: [0, 1]}


def _wrong(world: World, change: Callable[[Span], Span | None]) -> None:
    spans = [span for span in map(change, spans_of(world)) if span is not None]
    check_invariants(world, spans)


@pytest.mark.parametrize(
    ("kind", "device_index", "changes", "number"),
    [
        (MERGE, 1, None, 14),
        (MERGE, 1, {"device": 0, "batch": 1}, 14),
        (MERGE, 0, {"version_read": 1}, 14),
        (UPDATE, 1, None, 1),
        (TRANSFER, 0, {"num_bytes": 999}, 6),
        (TRANSFER, 0, {"version_read": 1}, 3),
        (DOWNLOAD, 0, {"num_bytes": 999}, 6),
        (DOWNLOAD, 0, {"version_read": 1}, 3),
        (STEP, NONE, {"batch": 5}, 14),
        (STEP, NONE, None, 3),
    ],
)
def test_broken_rounds_are_found(
    kind: int, device_index: int, changes: dict[str, int] | None, number: int
) -> None:
    """An update that is lost, counted twice, of another version, or not all there."""
    scenario = stated(2, device(1.0, count=2), step_s=1.0)
    world = rounds_of(scenario, selected=[[0, 1]] * 2, local=[2, 2], awaited=2)
    seen: list[Span] = []

    def change(span: Span) -> Span | None:
        if seen or (span.kind, span.device) != (kind, device_index):
            return span
        seen.append(span)
        return None if changes is None else span._replace(**changes)  # type: ignore[arg-type]

    with pytest.raises(InvariantError) as caught:
        _wrong(world, change)
    assert caught.value.number == number


# -- deliberate defects of the main engine: the comparison has to see each of them


def late_updates_count(patch: pytest.MonkeyPatch) -> None:
    """Whatever version it was learned from."""
    arrives = Coordinator.arrives

    def of_any_version(
        self: Coordinator, device: Client, number: int, batch: Batch, now: float
    ) -> None:
        part = replace(batch.parts[0], version=self.version)
        arrives(self, device, number, replace(batch, parts=(part,)), now)

    patch.setattr(Coordinator, "arrives", of_any_version)


def nobody_gives_up(patch: pytest.MonkeyPatch) -> None:
    """A device goes through its mini-batches though the round is over."""

    def go_on(self: Participant) -> None:
        if self.number < self.times * self.local:
            self.batch, self.part = self.numbers(self.number), 0
            self._begin()
        else:
            self._upload()
            self._is_idle()

    patch.setattr(Participant, "_go_on", go_on)


@pytest.mark.parametrize("mutate", [late_updates_count, nobody_gives_up])
def test_a_mutated_engine_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each deliberate defect shows in the comparison with the second engine."""
    worlds = []
    for seed in range(60):
        choose = Random(seed)
        worlds.append(in_rounds(choose, random_world(choose)))
    expected = [witness.simulate(world) for world in worlds]
    mutate(monkeypatch)
    assert any(spans_of(world) != rows for world, rows in zip(worlds, expected, strict=True))


def test_a_server_with_little_room_takes_halves_in_one_by_one() -> None:
    """No more mini-batches of cut models wait than there is room for; updates need none."""
    scenario = stated(3, device(1.0, count=6), step_s=2.0)
    plain = rounds_of(scenario, selected=[[*range(6)]] * 2, local=[3] * 6, awaited=6)
    world = without_horizon(cut_in_rounds(Random(0), plain))

    def most_wait(room: int | None) -> int:
        fold = BacklogFold(replace(world, room=room))
        rows = spans_of(replace(world, room=room))
        fold.add([row for row in rows if row.kind != QUEUE or row.version_read == NONE])
        return fold.server_peak

    assert most_wait(1) == 1 < most_wait(2) == 2 < most_wait(None)


def test_waits_are_for_no_mini_batch() -> None:
    """Who is not selected waits through the rounds of others, once."""
    scenario = stated(1, device(1.0, count=2), step_s=1.0)
    world = rounds_of(scenario, selected=[[0], [0], [1]], local=[1, 1], awaited=1)
    columns = columns_of(world)
    waits = columns[(columns.kind == WAIT) & (columns.device == 1)]
    steps = columns.end[columns.kind == STEP]
    assert waits.batch.tolist() == [NONE]
    assert (waits.start[0], waits.end[0]) == (0.0, steps[1] + 1.0)
