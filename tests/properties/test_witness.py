"""Two engines, one description: the main engine and the witness give the same rows in one order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from random import Random
from typing import Any

import pytest
import witness
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import (
    federated,
    of_data,
    random_scenario,
    random_world,
    spans_of,
    two_way,
    with_cache,
    world_of,
)

from mobisim.sim.device import Device
from mobisim.sim.kernel import Alarm
from mobisim.sim.link import Uplink
from mobisim.sim.server import Server, Worker
from mobisim.sim.waiting import FirstCome, Ranked, RoundRobin, ShortestJob
from mobisim.span import KINDS, Span
from mobisim.world import World

RANDOMS = st.randoms(use_true_random=False)
SWEEP = range(300)
MUTATION_SWEEP = range(60)


def readable(span: Span | None, world: World) -> str:
    """A row as a person reads it."""
    if span is None:
        return "nothing"
    return f"{KINDS[span.kind]} {world.actors.names[span.actor]} {span[2:]}"


def first_difference(world: World) -> str | None:
    """The first row in which the engines differ, or None where all are equal."""
    main, second = spans_of(world), witness.simulate(world)
    if main == second:
        return None
    at = next(
        (i for i, pair in enumerate(zip(main, second, strict=False)) if pair[0] != pair[1]), -1
    )
    at = at if at >= 0 else min(len(main), len(second))
    ours, theirs = (rows[at] if at < len(rows) else None for rows in (main, second))
    return f"row {at}: {readable(ours, world)}; witness: {readable(theirs, world)}"


@given(RANDOMS)
@settings(max_examples=150)
def test_engines_agree_on_random_scenarios(choose: Random) -> None:
    """Any scenario of stated times gives equal rows in equal order."""
    assert first_difference(world_of(random_scenario(choose))) is None


@given(RANDOMS)
@settings(max_examples=150)
def test_engines_agree_on_random_worlds(choose: Random) -> None:
    """So does any world: ragged mini-batches, decode times, several groups, delivery."""
    assert first_difference(random_world(choose)) is None


@pytest.mark.parametrize("sort", [two_way, with_cache, of_data, federated])
def test_engines_agree_on_other_methods(sort: Callable[[Random, World], World]) -> None:
    """Replies that devices wait for, what the server has kept, mere data, a federation."""
    for seed in SWEEP:
        choose = Random(seed)
        world = sort(choose, random_world(choose))
        difference = first_difference(world)
        assert difference is None, f"seed {seed}: {difference}"


@pytest.mark.parametrize("sort", ["scenario", "world"])
def test_engines_agree_on_a_seeded_sweep(sort: str) -> None:
    """Hundreds of further scenarios and worlds, the same in every run, give equal rows."""
    for seed in SWEEP:
        choose = Random(seed)
        world = world_of(random_scenario(choose)) if sort == "scenario" else random_world(choose)
        difference = first_difference(world)
        assert difference is None, f"seed {seed}: {difference}"


@given(RANDOMS)
@settings(max_examples=60)
def test_engines_agree_on_horizons_at_an_event(choose: Random) -> None:
    """A horizon at the very instant of an end keeps what ends there and starts nothing."""
    world = replace(random_world(choose), horizon_s=None)
    ends = [span.end for span in spans_of(world)]
    assert first_difference(replace(world, horizon_s=choose.choice(ends))) is None


@given(RANDOMS)
@settings(max_examples=100)
def test_the_world_says_what_the_scenario_states(choose: Random) -> None:
    """Bytes with packet overhead, transfer times and shares of the step, worked out twice."""
    scenario = random_scenario(choose)
    built, stated = world_of(scenario), witness.stated_world(scenario)
    for ours, theirs in zip(built.groups, stated.groups, strict=True):
        (batch,), (expected,) = ours.batches, theirs.batches
        for part, other in zip(batch.parts, expected.parts, strict=True):
            assert part.num_bytes == other.num_bytes
            assert astuple(part) == pytest.approx(astuple(other), rel=1e-15)
        assert batch.step_s == pytest.approx(expected.step_s, rel=1e-15)
        undelivered = replace(ours, download_bytes=0, download_s=0.0, batches=())
        assert undelivered == replace(theirs, batches=())
    assert replace(built, groups=(), deliver=False) == replace(stated, groups=())


def test_work_too_short_for_the_clock_keeps_its_row() -> None:
    """A transfer that a double cannot add to the clock has a span of no length in both engines."""
    world = random_world(Random(1))
    group = world.groups[0]
    (part, *_), step_s = group.batches[0].parts, 1.0
    instant = replace(part, tap=-1, forward_s=1e6, transfer_s=1e-12)
    batch = replace(group.batches[0], parts=(instant,), step_s=step_s)
    group = replace(group, batches=(batch,), order=None, uplink=None, cell=None)
    plain = replace(world, groups=(group,), horizon_s=None)
    assert first_difference(plain) is None
    transfers = [span for span in spans_of(plain) if KINDS[span.kind] == "transfer"]
    assert len(transfers) == group.num_batches * group.count
    assert all(span.end == span.start for span in transfers)


# -- deliberate defects of the main engine: the comparison has to see each of them


def run_ahead_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """One mini-batch too many may be ahead of the server."""
    patch.setattr(
        Device,
        "_has_credit",
        lambda self: self.steps_started >= self.number - self.group.run_ahead,
    )


def latency_occupies_the_link(patch: pytest.MonkeyPatch) -> None:
    """The next message leaves only when the one before has arrived."""
    carry, carried, lands = Uplink._carry, Uplink._carried, Uplink._lands
    leaving: set[Uplink] = set()

    def carry_alone(self: Uplink, now: float) -> None:
        if self not in leaving and not self.flying:
            carry(self, now)

    def carried_and_stays(self: Uplink, event: Any) -> None:
        leaving.add(self)
        carried(self, event)
        leaving.remove(self)
        if self.messages:
            self._carry(self.scene.env.now)

    def lands_and_frees(self: Uplink, event: Any) -> None:
        lands(self, event)
        if self.messages:
            self._carry(self.scene.env.now)

    patch.setattr(Uplink, "_carry", carry_alone)
    patch.setattr(Uplink, "_carried", carried_and_stays)
    patch.setattr(Uplink, "_lands", lands_and_frees)


def last_come_first_served(patch: pytest.MonkeyPatch) -> None:
    """The server's queue becomes a stack."""

    patch.setattr(FirstCome, "take", lambda self: self.jobs.pop())


def turns_from_the_lowest_device(patch: pytest.MonkeyPatch) -> None:
    """Of those that take turns the lowest device goes first whoever was last."""
    patch.setattr(RoundRobin, "rank", lambda self, job, joined: (0, job.device.index))


def the_longest_job_first(patch: pytest.MonkeyPatch) -> None:
    """Most work first."""
    patch.setattr(ShortestJob, "rank", lambda self, job, joined: (-job.batch.work_s, joined))


def fair_forgets_who_did_not_wait(patch: pytest.MonkeyPatch) -> None:
    """What found an idle worker does not count."""
    patch.setattr(Ranked, "passes", lambda self, job: None)


def credit_when_the_step_ends(patch: pytest.MonkeyPatch) -> None:
    """A device may go on only when the step that gives it credit is done."""
    credit, stepped = Device.step_starts, Worker._stepped

    def step_ends(self: Worker, event: Any) -> None:
        device = self._job().device
        stepped(self, event)
        assert isinstance(device, Device)
        credit(device)

    patch.setattr(Device, "step_starts", lambda self: None)
    patch.setattr(Worker, "_stepped", step_ends)


def encoding_leaves_the_device_free(patch: pytest.MonkeyPatch) -> None:
    """The next forward begins while the part before it is still encoded."""
    forward_ends = Device._forward_ends

    def forward_ends_and_goes_on(self: Device, event: Any) -> None:
        encode_s = self.batch.parts[self.part].encode_s
        if encode_s == 0.0:
            forward_ends(self, event)
            return
        now, send = self._write(), self.uplink.send
        number, batch, part = self.number, self.batch, self.batch.parts[self.part]
        self.uplink.send = lambda *_: None  # type: ignore[method-assign]
        self._send(now)
        self.uplink.send = send  # type: ignore[method-assign]
        later = now + encode_s
        Alarm(self.scene.env, later, self.rank, lambda _: send(number, batch, part, later))

    patch.setattr(Device, "_forward_ends", forward_ends_and_goes_on)


def highest_worker_first(patch: pytest.MonkeyPatch) -> None:
    """Of several idle workers the one with the highest number takes up a mini-batch."""

    def enqueue(self: Server, job: Any) -> None:
        if self.idle:
            highest = max(self.idle)
            self.idle.remove(highest)
            self.workers[highest].take(job)
        else:
            self.queue.join(job)

    patch.setattr(Server, "_enqueue", enqueue)


def messages_overtake(patch: pytest.MonkeyPatch) -> None:
    """A message with a short latency arrives before those that left earlier."""
    carried = Uplink._carried

    def forgets_the_last(self: Uplink, event: Any) -> None:
        self.last_arrival = 0.0
        carried(self, event)

    patch.setattr(Uplink, "_carried", forgets_the_last)


@pytest.mark.parametrize(
    "mutate",
    [
        run_ahead_off_by_one,
        latency_occupies_the_link,
        last_come_first_served,
        turns_from_the_lowest_device,
        the_longest_job_first,
        fair_forgets_who_did_not_wait,
        credit_when_the_step_ends,
        encoding_leaves_the_device_free,
        highest_worker_first,
        messages_overtake,
    ],
)
def test_a_mutated_engine_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each deliberate defect shows in the comparison, which is silent without it."""
    worlds = [random_world(Random(seed)) for seed in MUTATION_SWEEP]
    assert [d for world in worlds if (d := first_difference(world))] == []
    mutate(monkeypatch)
    assert any(first_difference(world) for world in worlds)
