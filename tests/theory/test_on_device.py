"""Devices that train by themselves: closed forms, both engines, invariants and blame."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import witness
from checks import checked
from worlds import (
    columns_of,
    device,
    in_conditions,
    on_device,
    random_world,
    spans_of,
    stated,
    without_horizon,
    world_of,
)

from mobisim.cost.energy import Power
from mobisim.report.energy import Meter
from mobisim.report.metrics import MetricsFold
from mobisim.span import BACKWARD, FORWARD, STEP, TRANSFER, WAIT, Block
from mobisim.world import World

SWEEP = range(200)


def _alone(num_batches: int, forward_s: float, backward_s: float, step_s: float) -> World:
    world = world_of(stated(num_batches, device(forward_s), step_s=step_s))
    group = world.groups[0]
    batch = group.batches[0]
    part = replace(batch.parts[0], num_bytes=0, transfer_s=0.0)
    batch = replace(batch, parts=(part,), backward_s=backward_s)
    return replace(world, groups=(replace(group, batches=(batch,)),), on_device=True)


def test_nothing_overlaps_on_one_device() -> None:
    """N mini-batches last N times forward, backward and update; nothing is sent, nobody waits."""
    columns = columns_of(_alone(7, 0.5, 1.0, 0.25))
    assert columns.end[-1] == 7 * 1.75
    assert sorted(set(columns.kind.tolist())) == sorted((FORWARD, BACKWARD, STEP))
    steps = columns[columns.kind == STEP]
    assert steps.version_read.tolist() == list(range(7))
    assert steps.version_written.tolist() == list(range(1, 8))


def test_engines_agree_on_devices_that_train() -> None:
    """The same rows in the same order, with random durations and at horizons."""
    for seed in SWEEP:
        choose = Random(seed)
        world = on_device(choose, random_world(choose, shared=False))
        assert spans_of(world) == witness.simulate(world), f"seed {seed}"


def test_engines_agree_on_warm_and_tired_devices_that_train() -> None:
    """Heat and low batteries count for the backward and the step as for the forward."""
    for seed in SWEEP:
        choose = Random(seed)
        world = in_conditions(choose, on_device(choose, random_world(choose, shared=False)))
        main, second = spans_of(world), witness.simulate(world)
        assert [s._replace(start=0, end=0) for s in main] == [
            s._replace(start=0, end=0) for s in second
        ], f"seed {seed}"
        instants = np.array([s[2:4] for s in main])
        assert instants == pytest.approx(np.array([s[2:4] for s in second]), rel=1e-9, abs=1e-9)


def test_invariants_hold_and_the_device_bears_all_blame() -> None:
    """All nine invariants, and a critical path that is the device's alone."""
    for seed in SWEEP:
        choose = Random(seed)
        world = without_horizon(on_device(choose, random_world(choose, shared=False)))
        columns = columns_of(world)
        assert not np.isin(columns.kind, (TRANSFER, WAIT)).any()
        totals = checked(world)
        assert totals.num_steps == world.total_batches
        assert totals.blame.bottleneck == "device"
        assert totals.blame.device == totals.blame.total


def test_training_draws_the_load_power() -> None:
    """Forward, backward and update alike."""
    world = _alone(4, 0.5, 1.0, 0.25)
    world = replace(world, groups=(replace(world.groups[0], power=Power(1.0, 6.0)),))
    columns = columns_of(world)
    totals = MetricsFold(world).add(Block(list(columns.spans()))).totals()
    usage = Meter(world).usage(totals)
    assert usage is not None
    assert usage.compute[0] == pytest.approx(4 * 1.75 * 5.0)
    assert Meter(world).joules(columns).sum() == pytest.approx(4 * 1.75 * 6.0)
