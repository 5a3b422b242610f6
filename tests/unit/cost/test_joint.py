"""A step on several mini-batches: the cost model of one mini-batch of all their samples."""

from __future__ import annotations

import pytest
from worlds import device, stated, world_of

from mobisim.cost.memory import server_memory
from mobisim.cost.system import System
from mobisim.scenario.load import load
from mobisim.workload import plan
from mobisim.world import World

FIELDS = ("num_batches=8", "server.batching={window: 5 ms, most: 4}")


def together(world: World, sorts: tuple[int, ...]) -> float:
    assert world.batching is not None
    return world.batching.step_s(sorts)


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_as_long_as_a_mini_batch_of_all_samples(granularity: str) -> None:
    """Launches are paid once, FLOPs add up: four of 16 samples take as long as one of 64."""
    more = (f"granularity={granularity}", *FIELDS)
    world = world_of(load("layer_streaming", [*more, "batch_size=16"]))
    large = world_of(load("layer_streaming", [*more, "batch_size=64"]))
    alone, joint = together(world, (0,)), together(world, (0,) * 4)
    assert joint == pytest.approx(large.groups[0].batches[0].step_s, rel=1e-12)
    assert alone == world.groups[0].batches[0].step_s < joint < 4 * alone


def test_of_a_mixed_fleet_each_goes_through_its_own_projections() -> None:
    """Between as many of either sort, in whatever order."""
    world = world_of(load("fed_mixed", ["federation.replay=null", *FIELDS[1:]]))
    first, last = 0, world.num_sorts - 1
    mixture = together(world, (first, first, last, last))
    bounds = sorted(together(world, (sort,) * 4) for sort in (first, last))
    assert bounds[0] <= mixture <= bounds[1]
    assert mixture == together(world, (last, first, last, first))


@pytest.mark.parametrize(("shared", "expected"), [(None, 6.0), (0.5, 4.0), (1.0, 2.0)])
def test_of_stated_times_a_stated_share_is_paid_once(shared: float | None, expected: float) -> None:
    """Without a share times add up."""
    batching = {"window": 0, "most": 4, "shared": shared}
    world = world_of(stated(2, device(1.0), step_s=2.0, batching=batching))
    assert together(world, (0, 0, 0)) == pytest.approx(expected)


def test_memory_holds_all_that_is_stepped_together() -> None:
    """What a step keeps grows with what it is on; parameters do not."""
    scenario = load("layer_streaming", FIELDS)
    shape = plan(scenario).workload.largest
    alone = scenario.model_copy(
        update={"server": scenario.server.model_copy(update={"batching": None})}
    )
    one, four = (server_memory(System(each), shape, 0) for each in (alone, scenario))
    assert one is not None
    assert four is not None
    assert four.stored == pytest.approx(4 * one.stored, rel=1e-9)
    assert four.state == one.state
