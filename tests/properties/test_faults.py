"""What fails: both engines agree, nothing is ingested twice, and each loss is in a span."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import witness
from worlds import (
    blocks_of,
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

from mobisim.report.invariants import InvariantFold
from mobisim.report.metrics import MetricsFold
from mobisim.span import KINDS
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
        invariants = InvariantFold(world)
        for block in blocks_of(spans, 7):
            invariants.add(block.columns)
        invariants.finish()
        (block,) = blocks_of(spans, len(spans))
        totals = MetricsFold(world).add(block).totals()
        assert totals.blame.total == pytest.approx(totals.makespan_s, rel=1e-9), f"seed {seed}"
        assert (totals.num_cut, totals.num_lost) == (0, sum(span.cut for span in spans))


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
