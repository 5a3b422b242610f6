"""Timelines of methods: what follows from what a device does, a server keeps and sends back."""

from __future__ import annotations

import numpy as np
import pytest
import witness
from worlds import columns_of, spans_of, world_of

from mobisim.cost.method_cost import method_cost
from mobisim.cost.system import System
from mobisim.report.invariants import InvariantFold
from mobisim.report.metrics import MetricsFold
from mobisim.scenario.load import load
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate
from mobisim.span import DEVICE, STEP, TRANSFER, WORK_KINDS, SpanColumns
from mobisim.workload import plan
from mobisim.world import Batch, World

BATCHES = 12
METHODS = (
    "mobillm", "pae-mobillm", "full", "lora", "bitfit", "adapters", "lst", "server-only",
    "split-lora", "fwdllm",
)  # fmt: skip


def scenario(*overrides: str) -> Scenario:
    """Twelve mini-batches of the wifi_5mbps pair, in three epochs."""
    return load("layer_streaming", [f"num_batches={BATCHES}", "epochs=3", *overrides])


def _world(*overrides: str) -> tuple[World, SpanColumns]:
    world = world_of(scenario(*overrides))
    return world, columns_of(world)


def _only(world: World) -> Batch:
    (batch,) = world.groups[0].batches
    return batch


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_engines_agree_on_every_method(method: str, granularity: str) -> None:
    """The same rows in the same order, and no invariant broken."""
    world, columns = _world(f"method={method}", f"granularity={granularity}")
    assert spans_of(world) == witness.simulate(world)
    fold = InvariantFold(world)
    fold.add(columns)
    fold.finish()
    assert np.sum(columns.kind == STEP) == BATCHES


@pytest.mark.parametrize("eviction", ["fifo", "lru"])
@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_engines_agree_on_caches_that_are_full(eviction: str, granularity: str) -> None:
    """Mini-batches of which some samples were kept are sent in part."""
    cache = ("cache.capacity=1.5 MB", "cache.codec=fp16", f"cache.eviction={eviction}")
    options = ("method=pae-mobillm", f"granularity={granularity}", *cache)
    world, columns = _world(*options)
    shapes = plan(scenario(*options)).workload.shapes
    kept = [shape.kept for shape in shapes if shape is not None]
    assert any(part is not None and part.num_samples < 16 for part in kept)
    assert spans_of(world) == witness.simulate(world)
    InvariantFold(world).add(columns)


@pytest.mark.parametrize("granularity", ["batch", "layer"])
def test_a_device_rests_once_all_is_kept(granularity: str) -> None:
    """After the first of three epochs it works and sends no more, and the server sets the pace."""
    world, columns = _world("method=pae-mobillm", f"granularity={granularity}", "deliver=none")
    device = columns[
        np.isin(columns.kind, WORK_KINDS) & (world.actors.roles[columns.actor] == DEVICE)
    ]
    assert len(device)
    assert set(device.batch) == set(columns.batch[columns.kind == TRANSFER]) == {0, 1, 2, 3}
    ends = columns.end[columns.kind == STEP]
    kept = world.groups[0].batches[1]
    assert not kept.parts
    assert np.diff(ends)[4:] == pytest.approx(kept.cached_s + kept.step_s)


def test_epochs_more_cost_the_server_only() -> None:
    """Each brings as many steps on what was kept; upload and device stay as they were."""
    first, more = (
        _world("method=pae-mobillm", f"num_batches={4 * n}", f"epochs={n}") for n in (1, 5)
    )
    totals = []
    for world, _ in (first, more):
        fold = MetricsFold(world)
        for block in simulate(world):
            fold.add(block)
        totals.append(fold.totals())
    assert totals[0].uplink_bytes == totals[1].uplink_bytes
    assert totals[0].busy_s[0] == totals[1].busy_s[0]
    kept = more[0].groups[0].batches[1]
    lasted = totals[1].makespan_s - totals[0].makespan_s
    assert lasted == pytest.approx(16 * (kept.cached_s + kept.step_s))


@pytest.mark.parametrize("method", ["split-lora", "fwdllm"])
def test_nothing_overlaps_where_a_device_waits_for_replies(method: str) -> None:
    """Forward, up, server, down and backward follow one another, with a latency each way.

    What trained above a cut follows the last reply, beside the last backward.
    """
    world, columns = _world(f"method={method}")
    group, batch = world.groups[0], _only(world)
    (part,) = batch.parts
    up = part.forward_s + part.encode_s + part.transfer_s + group.latency_s
    server = part.decode_s + batch.step_s
    down = batch.reply_s + group.latency_s + batch.backward_s
    assert batch.reply_bytes > 0
    brought = group.download_s + group.latency_s if world.deliver else 0.0
    assert (brought > 0) == (method == "split-lora")
    rest = max(brought - batch.backward_s, 0.0)
    assert columns.end[-1] == pytest.approx(BATCHES * (up + server + down) + rest)


def test_a_server_alone_is_bound_by_upload_and_steps() -> None:
    """Tokens are a few bytes: the first arrive, then the server never waits, then LoRA comes."""
    world, columns = _world("method=server-only")
    first, kept = world.groups[0].batches
    (part,) = first.parts
    assert (part.forward_s, part.encode_s, kept.parts) == (0.0, 0.0, ())
    assert first.step_s == kept.step_s > part.transfer_s
    group = world.groups[0]
    ways = part.transfer_s + group.download_s + 2 * group.latency_s
    assert columns.end[-1] == pytest.approx(ways + BATCHES * first.step_s)
    assert len(columns[columns.kind == TRANSFER]) == BATCHES // 3


def test_pieces_of_a_mini_batch_add_up() -> None:
    """Four of them keep a quarter, and cost their forwards and backwards, and one update."""
    whole, pieces = (
        method_cost(System(found), found.devices[0], plan(found).workload.shapes[0])
        for found in (scenario("method=lora", f"tuning.micro_batches={n}") for n in (1, 4))
    )
    assert pieces.forward_s[0] > whole.forward_s[0]
    assert pieces.backward_s > whole.backward_s
    assert pieces.step_s == whole.step_s


def test_a_cut_divides_the_work() -> None:
    """The deeper it lies, the more the device computes and the less the server does."""
    costs = []
    for cut in (4, 12, 20):
        found = scenario("method=split-lora", f"tuning.cut={cut}")
        costs.append(method_cost(System(found), found.devices[0], plan(found).workload.shapes[0]))
    device = [cost.forward_s[0] + cost.backward_s for cost in costs]
    server = [cost.step_s for cost in costs]
    assert device == sorted(device)
    assert server == sorted(server, reverse=True)
    assert len({cost.payload_bytes for cost in costs}) == 1
