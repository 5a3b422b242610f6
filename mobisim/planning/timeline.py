"""The timeline of one run: its totals, when each step ended, and when each device was through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobisim.outages import joins_at
from mobisim.prepare import Prepared
from mobisim.report.metrics import MetricsFold, Totals
from mobisim.runner import collector_at_rest
from mobisim.sim.engine import simulate
from mobisim.span import INGESTS, NONE, STEP
from mobisim.sweeps.order import merges
from mobisim.world import World


@dataclass(frozen=True)
class Timeline:
    """What a plan asks of a run's spans.

    Shapes: `steps` is int64 [steps, 3] of device, mini-batch and version read, `merged` [merges, 3]
    as orders have them, `ends_s` [steps]; `finish_s` [devices that have mini-batches], from joining
    to the end of the last step, or merge.
    """

    totals: Totals
    steps: NDArray[np.int64]
    merged: NDArray[np.int64]
    ends_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]


def timeline_of(prepared: Prepared) -> Timeline:
    """Simulate a run whose work ends."""
    world = prepared.world
    fold = MetricsFold(world)
    steps, merged, ends = [np.empty((0, 3), np.int64)], [np.empty((0, 4), np.int64)], [np.empty(0)]
    finish = np.zeros(len(world.batches_of))
    with collector_at_rest():
        for block in simulate(world):
            merged.append(merges(block.columns, sum(map(len, ends))))
            fold.add(block)
            done = block.columns[block.columns.kind == STEP]
            steps.append(np.stack([done.device, done.batch, done.version_read], axis=1))
            ends.append(done.end)
            last = np.isin(block.columns.kind, INGESTS) & (block.columns.device != NONE)
            np.maximum.at(finish, block.columns.device[last], block.columns.end[last])
    finish_s = (finish - _joined(world))[world.batches_of > 0]
    order, averaged = np.concatenate(steps), np.concatenate(merged)
    return Timeline(fold.totals(), order, averaged, np.concatenate(ends), finish_s)


def _joined(world: World) -> NDArray[np.float64]:
    """When each device joined."""
    groups = [world.groups[group] for group in world.group_of]
    return np.array(
        [joins_at(g.absences, world.seed, f"device-{i}/absences") for i, g in enumerate(groups)]
    )
