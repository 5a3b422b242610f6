"""What fails: both engines agree, nothing is ingested twice, and each loss is in a span."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import witness
from checks import checked
from worlds import (
    bounded,
    failing,
    federated,
    of_data,
    random_world,
    sampled,
    spans_of,
    two_way,
    with_cache,
    without_horizon,
)

from mobisim.channel import course
from mobisim.scenario.profiles import Absences
from mobisim.scenario.traces import OpportunityTrace
from mobisim.span import CARRYING_KINDS, KINDS, TRANSFER, Span
from mobisim.world import World

SWEEP = range(80)
Sort = Callable[[Random, World], World]


def plain(_: Random, world: World) -> World:
    """As it is."""
    return world


def worlds_of(sort: Sort, seeds: range = SWEEP) -> list[World]:
    """Worlds of a sort in which things fail."""
    randoms = (Random(seed) for seed in seeds)
    return [failing(choose, sort(choose, random_world(choose))) for choose in randoms]


SORTS = [plain, two_way, with_cache, of_data, federated, sampled, bounded]


@pytest.mark.parametrize("sort", SORTS)
def test_engines_agree(sort: Sort) -> None:
    """Row by row, whatever the method."""
    for seed, world in enumerate(worlds_of(sort)):
        assert spans_of(world) == witness.simulate(world), f"seed {seed}"


def test_engines_agree_on_horizons_at_an_event() -> None:
    """A horizon at the very instant at which something ends or is cut."""
    for seed, world in enumerate(map(without_horizon, worlds_of(plain))):
        ends = [span.end for span in spans_of(world)]
        cut = replace(world, horizon_s=Random(seed).choice(ends))
        assert spans_of(cut) == witness.simulate(cut), f"seed {seed}"


@pytest.mark.parametrize("sort", SORTS)
def test_invariants_and_blame_hold(sort: Sort) -> None:
    """In blocks as in one, and the chain of causes fills the makespan."""
    for seed, world in enumerate(map(without_horizon, worlds_of(sort))):
        spans = spans_of(world)
        totals = checked(world, spans)
        lost = sum(span.cut for span in spans)
        assert (totals.num_cut, totals.num_lost) == (0, lost), f"seed {seed}"


def test_the_sweep_meets_what_it_is_for() -> None:
    """Each kind of work is cut somewhere in it, by a restart or by a device that vanishes."""
    seen = Counter(
        KINDS[span.kind]
        for world in map(without_horizon, worlds_of(plain, range(200)))
        for span in spans_of(world)
        if span.cut or KINDS[span.kind] == "down"
    )
    of_server = ("down", "decode", "side_forward", "step", "wait")
    of_device = ("forward", "encode", "transfer", "download")
    assert all(seen[kind] >= 5 for kind in (*of_server, *of_device)), seen


AWAY_30_PERCENT = Absences.model_validate(
    {
        "up": {"mean": "14 s", "distribution": "exponential"},
        "down": {"mean": "6 s", "distribution": "exponential"},
        "kind": "abrupt",
    }
)


def test_what_links_carry_is_delivered_or_torn() -> None:
    """Devices away for 30 % of the time: each message arrives once, and the rest is torn ones."""
    num_torn = Counter[str]()
    for choose in map(Random, range(40)):
        world = without_horizon(random_world(choose))
        groups = [replace(group, absences=AWAY_30_PERCENT) for group in world.groups]
        world = replace(world, groups=tuple(groups))
        spans = spans_of(world)
        totals = checked(world, spans)
        torn = [span for span in spans if span.cut and span.kind in CARRYING_KINDS]
        up = sum(span.num_bytes for span in torn if span.kind == TRANSFER)
        down = sum(span.num_bytes for span in torn) - up
        fetched = (group.download_bytes * group.count * world.deliver for group in world.groups)
        assert totals.uplink_bytes == handed_over(world) + up
        assert totals.downlink_bytes == sum(fetched) + down
        assert totals.lost_bytes == up + down
        for span in torn:
            least, most = supplied(world, span)
            assert least - 8 - 1e-6 < 8 * span.num_bytes <= most + 1e-6, span
        num_torn.update(KINDS[span.kind] for span in torn)
    assert num_torn["transfer"] > 100, num_torn
    assert num_torn["download"] > 3, num_torn


def handed_over(world: World) -> int:
    """The bytes of all messages of all devices."""
    batches = (
        world.batch(device, number)
        for device, count in enumerate(world.batches_of.tolist())
        for number in range(count)
    )
    return sum(part.num_bytes for batch in batches for part in batch.parts)


def supplied(world: World, torn: Span) -> tuple[float, float]:
    """The least and the most that a link can have carried of a message, in bits.

    By its rate, outages left out; others share a cell, TCP waits for round trips, and of an
    opportunity the message before may have used a part.
    """
    group, up = world.groups[world.group_of[torn.device]], torn.kind == TRANSFER
    channel = group.uplink if up else group.downlink
    if channel is None:
        rate = group.uplink_bits_per_s if up else group.downlink_bits_per_s
        most = rate * (torn.end - torn.start)
        return (most if group.cell is None else 0.0), most
    most = course(channel, world.seed, torn.device).room_bits(torn.start, torn.end)
    shared = channel.windows is not None or isinstance(channel.rate, OpportunityTrace)
    return (0.0 if shared else most), most
