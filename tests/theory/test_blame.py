"""Blame against a walk backwards over the finished table of spans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random

import pytest
from checks import checked
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import (
    blocks_of,
    federated,
    of_data,
    random_scenario,
    random_world,
    spans_of,
    two_way,
    with_cache,
    without_horizon,
    world_of,
)

from mobisim.report.metrics import MetricsFold
from mobisim.span import (
    DOWNLOAD,
    ENCODE,
    FORWARD,
    KINDS,
    LATENCY,
    NONE,
    PAUSE,
    QUEUE,
    STEP,
    TRANSFER,
    WAIT,
    Span,
)
from mobisim.world import Group, World

Key = tuple[int, int, int, int]  # kind, device, batch, tap


class Walk:
    """Finds what each piece of work started after, from the table alone."""

    def __init__(self, world: World, spans: list[Span]) -> None:
        self.world, self.spans = world, spans
        self.names = world.actors.names
        self.found: dict[Key, Span] = {}
        self.before: dict[tuple[int, float], Span] = {}  # the work that an actor ended at a time
        self.waits: dict[tuple[int, float], Span] = {}
        self.queued: dict[tuple[int, int, int, int], Span] = {}
        self.of_job: dict[tuple[int, int], list[Span]] = defaultdict(list)
        self.carried: dict[int, Span] = {}  # the last transfer of each uplink so far
        self.carried_before: dict[Key, Span | None] = {}  # many may end at one instant
        for span in spans:
            self._note(span)

    def _note(self, span: Span) -> None:
        if span.kind == WAIT:
            self.waits[span.actor, span.end] = span
        elif span.kind == QUEUE:
            self.queued[span.actor, span.device, span.batch, span.tap] = span
        else:
            key = (span.kind, span.device, span.batch, span.tap)
            self.found[key] = span
            if span.kind == TRANSFER:
                self.carried_before[key] = self.carried.get(span.actor)
                self.carried[span.actor] = span
            if span.kind != LATENCY:
                self.before[span.actor, span.end] = span
            if span.actor > self.world.actors.server:
                self.of_job[span.device, span.batch].append(span)

    def chain(self) -> list[Span]:
        """From the last span back to the beginning, each starting where the next one ended."""
        chain = [self.spans[-1]]
        while (cause := self.cause(chain[-1])) is not None:
            assert cause.end == chain[-1].start
            chain.append(cause)
        return chain

    def cause(self, span: Span) -> Span | None:
        """What ended when `span` started and let it start; None at time 0."""
        if span.start == 0:
            return None
        of: dict[int, Callable[[Span], Span]] = {
            FORWARD: self._of_forward,
            PAUSE: self._of_forward,
            ENCODE: lambda s: self.found[FORWARD, s.device, s.batch, s.tap],
            TRANSFER: self._of_transfer,
            LATENCY: self._of_latency,
            DOWNLOAD: lambda s: [span for span in self.spans if span.kind == STEP][-1],
        }
        return of.get(span.kind, self._of_server_work)(span)

    def _of_forward(self, span: Span) -> Span:
        if (span.actor, span.start) not in self.waits:
            return self.before[span.actor, span.start]
        run_ahead = self.world.groups[self.world.group_of[span.device]].run_ahead
        return self._of_take_up(span.device, span.batch - run_ahead)

    def _of_take_up(self, device: int, batch: int) -> Span:
        job = self.of_job[device, batch]
        first = min(job, key=lambda span: (span.start, span.end))
        tap = self._first_tap(device, batch)
        queued = self.queued.get((self.world.actors.server, device, batch, tap))
        if queued is not None:
            return self.before[first.actor, queued.end]
        return self._arrival(device, batch, tap)

    def _first_tap(self, device: int, batch: int) -> int:
        group: Group = self.world.groups[self.world.group_of[device]]
        sort = 0 if group.order is None else int(group.order[batch])
        return group.batches[sort].parts[0].tap

    def _arrival(self, device: int, batch: int, tap: int) -> Span:
        flown = self.found.get((LATENCY, device, batch, tap))
        return flown or self.found[TRANSFER, device, batch, tap]

    def _of_transfer(self, span: Span) -> Span:
        if (span.actor, span.device, span.batch, span.tap) in self.queued:
            before = self.carried_before[TRANSFER, span.device, span.batch, span.tap]
            assert before is not None
            return before
        encoded = self.found.get((ENCODE, span.device, span.batch, span.tap))
        return encoded or self.found[FORWARD, span.device, span.batch, span.tap]

    def _of_latency(self, span: Span) -> Span:
        if span.batch == NONE:
            return self.found[DOWNLOAD, span.device, NONE, NONE]
        return self.found[TRANSFER, span.device, span.batch, span.tap]

    def _of_server_work(self, span: Span) -> Span:
        waited = self.waits.get((span.actor, span.start))
        if waited is not None:
            return self._arrival(span.device, span.batch, waited.tap)
        before = self.before.get((span.actor, span.start))
        if before is not None and (before.device, before.batch) == (span.device, span.batch):
            return before
        return self._of_take_up(span.device, span.batch)

    def blame(self) -> dict[str, float]:
        """Seconds of the chain by who spent them."""
        seconds = dict.fromkeys(("device", "uplink", "latency", "server", "downlink"), 0.0)
        for span in self.chain():
            who = self.names[span.actor].split("/")[0].split("-")[0]
            seconds["latency" if span.kind == LATENCY else who] += span.end - span.start
        return seconds


def folded(world: World, spans: list[Span]) -> MetricsFold:
    """The metrics of a table, taken in at once."""
    fold = MetricsFold(world)
    for block in blocks_of(spans, len(spans)):
        fold.add(block)
    return fold


def check(world: World) -> None:
    """The fold and the walk tell the same story, and it fills the makespan."""
    spans = spans_of(world)
    totals = folded(world, spans).totals()
    assert totals.blame.total == pytest.approx(totals.makespan_s, rel=1e-9)
    assert totals.blame._asdict() == pytest.approx(Walk(world, spans).blame(), rel=1e-9, abs=1e-9)


@given(st.randoms(use_true_random=False))
@settings(max_examples=120)
def test_blame_fills_the_makespan_of_random_scenarios(choose: Random) -> None:
    """Blame sums to the makespan, and equals the chain found backwards."""
    check(without_horizon(world_of(random_scenario(choose))))


@pytest.mark.parametrize("seed", range(150))
def test_blame_fills_the_makespan_of_random_worlds(seed: int) -> None:
    """So it does with ragged mini-batches, several workers, both granularities and delivery."""
    check(without_horizon(random_world(Random(seed))))


def test_the_walk_names_every_kind_of_work() -> None:
    """Over many worlds the chains pass through every kind of work there is."""
    kinds = set()
    for seed in range(60):
        world = without_horizon(random_world(Random(seed)))
        kinds |= {KINDS[span.kind] for span in Walk(world, spans_of(world)).chain()}
    elsewhere = {
        "backward",
        "reply",
        "down",
        "update",
        "merge",
        "joint",
    }  # of other sorts of worlds
    assert kinds == set(KINDS) - {"wait", "queue"} - elsewhere


@pytest.mark.parametrize("sort", [two_way, with_cache, of_data, federated])
def test_blame_and_invariants_hold_for_other_methods(
    sort: Callable[[Random, World], World],
) -> None:
    """With replies, kept mini-batches or mere data the chain still fills the makespan."""
    for seed in range(150):
        choose = Random(seed)
        world = without_horizon(sort(choose, random_world(choose)))
        checked(world)
