"""Learning is paid for once: which points of a sweep learn the same, and what must be trained.

What a point learns is decided by its data and hyperparameters, and by the order of its steps: which
mini-batch of which device is taken at which version. The simulator says that order; nothing is
assumed of it. Where one order begins with another, the longer training holds the shorter.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobisim.cost.method_flop import Flop, method_flop
from mobisim.learning import Merged
from mobisim.prepare import Prepared
from mobisim.scenario.methods import METHODS
from mobisim.scenario.schema import Scenario
from mobisim.sim.engine import simulate
from mobisim.span import JOINT, MERGE, STEP, SpanColumns
from mobisim.stopping import Stop
from mobisim.workload import metric_name, trained_names

# Of a scenario, what decides when things happen and not what is learned; the order of the steps
# says all that learning sees of it. Everything else counts as deciding.
_WHEN = {
    "name": True,
    "method": True,  # but for what it learns like
    "model": True,
    "granularity": True,
    "deliver": True,
    "cells": True,
    "jitter": True,
    "devices": True,
    "server": True,
    "horizon": True,
    "wire": {"payload_bytes"},
    "training": {"padding", "target", "stop_at_target", "patience"},
}


_NO_MERGES = np.empty((0, 4), dtype=np.int64)


@dataclass(frozen=True)
class Order:
    """What a point learns: all that decides it, and its steps.

    Shapes: `steps` is int64 [steps, 3] of device, mini-batch and version read. The point may end
    before the last of them, at the evaluation at which `stop` ends it. `work` is a rough measure of
    the arithmetic in it all. `merged` are the number of the step, a device, its mini-batch and the
    version read, of all but the first in a step; with rounds, of all, with their last mini-batches.
    int64 [merges, 4], in ascending order.
    """

    deciding: str
    steps: NDArray[np.int64]
    stop: Stop | None
    work: float = 0.0
    merged: NDArray[np.int64] = field(default_factory=lambda: _NO_MERGES)

    def begins(self, other: Order) -> bool:
        """Whether the other order begins with this one."""
        return (
            self.deciding == other.deciding
            and np.array_equal(self.steps, other.steps[: len(self.steps)])
            and np.array_equal(self.merged, other.merged[: len(self.merged)])
        )

    def merged_by(self, step: int) -> Merged:
        """What the step of that number averages."""
        first, last = np.searchsorted(self.merged[:, 0], (step, step + 1))
        return [
            (device, batch, read) for device, batch, read in self.merged[first:last, 1:].tolist()
        ]


@dataclass(frozen=True)
class Trajectory:
    """What is trained once for all points in `members`: the longest of their orders."""

    scenario: Scenario
    order: Order
    members: tuple[str, ...]
    ends: frozenset[int]
    stops: tuple[tuple[int, Stop | None], ...]

    @property
    def digest(self) -> str:
        """A digest of what is trained, and to where."""
        wanted = [[end, stop.key if stop else None] for end, stop in self.stops]
        text = json.dumps([self.order.deciding, wanted], sort_keys=True)
        content = self.order.steps.tobytes() + self.order.merged.tobytes()
        return hashlib.sha256(text.encode() + content).hexdigest()[:12]

    def ends_one(self, metric: list[float]) -> bool:
        """Whether a member ends with the last of these evaluations."""
        done = len(metric)
        return any(
            done == end or (done < end and stop is not None and stop.after(metric) == done)
            for end, stop in self.stops
        )

    def suffices(self, metric: list[float]) -> bool:
        """Whether every member has ended once these evaluations are made."""
        done = len(metric)
        return all(
            done >= end or (stop is not None and stop.after(metric) is not None)
            for end, stop in self.stops
        )


def order_of(prepared: Prepared) -> Order:
    """The order of a point's steps, as its timeline says."""
    found, merged, done = [np.empty((0, 3), dtype=np.int64)], [_NO_MERGES], 0
    for block in simulate(prepared.world):
        merged.append(merges(block.columns, done))
        steps = block.columns[(block.columns.kind == STEP) & ~block.columns.cut]
        found.append(np.stack([steps.device, steps.batch, steps.version_read], axis=1))
        done += len(steps)
    return order_with(prepared, np.concatenate(found), np.concatenate(merged))


def merges(columns: SpanColumns, done: int) -> NDArray[np.int64]:
    """Of all that is stepped together the step, the device, its mini-batch, and what it began from.

    So many steps were `done` before these spans.
    """
    ours = np.isin(columns.kind, (MERGE, JOINT)) & ~columns.cut
    steps = done + np.cumsum((columns.kind == STEP) & ~columns.cut)
    parts = columns[ours]
    return np.stack([steps[ours], parts.device, parts.batch, parts.version_read], axis=1)


def order_with(
    prepared: Prepared, steps: NDArray[np.int64], merged: NDArray[np.int64] = _NO_MERGES
) -> Order:
    """The order of a point whose steps, int64 [steps, 3], and merges, [merges, 4], are known."""
    training = prepared.scenario.training
    assert training is not None
    merged = merged[merged[:, 0] < len(steps)]  # else the horizon came before the step
    merged = merged[np.lexsort(merged[:, 2::-1].T)]
    return Order(_deciding(prepared), steps, Stop.of(training), _work(prepared), merged)


def _work(prepared: Prepared) -> float:
    """FLOPs of all mini-batches in the timed model; how many there are where no model is timed.

    What a frozen backbone gives a side network is computed in the first epoch and kept.
    """
    shapes, found = prepared.planned.workload.shapes, 0.0
    training = prepared.scenario.training
    assert training is not None
    keeps = prepared.system.options.method.kernel == "side_network"
    passes = 1 / training.epochs if keeps else 1.0
    for view, group in zip(prepared.system.views, prepared.world.groups, strict=True):
        for shape, count in zip(shapes, group.counts.tolist(), strict=True):
            flop = method_flop(view, shape) or Flop(1.0, 0.0)
            found += count * (passes * flop.device + flop.server)
    return found


def _deciding(prepared: Prepared) -> str:
    scenario, training = prepared.scenario, prepared.scenario.training
    assert training is not None
    taps_all = scenario.side_network.taps == "all"
    depth = prepared.system.num_blocks if prepared.system.backbone else None
    counts = [(group.count, group.rank) for group in scenario.devices]
    fields: dict[str, Any] = {
        **scenario.model_dump(mode="json", exclude=_WHEN),  # type: ignore[arg-type]  # nested
        "method": repr(METHODS[scenario.method].learns_like),
        "depth": None if taps_all else depth,  # taps in a list are mapped to the same depth
        "fleet": list(zip(trained_names(scenario), counts, strict=True)),
        "metric": metric_name(training),
        "data": prepared.planned.fingerprint,
    }
    return json.dumps(fields, sort_keys=True)


def trajectories(orders: Mapping[str, tuple[Scenario, Order]]) -> list[Trajectory]:
    """The fewest trainings that hold all orders, most work first; keys name the points."""
    longest_first = sorted(orders, key=lambda name: -len(orders[name][1].steps))
    groups: dict[str, list[str]] = defaultdict(list)
    for name in longest_first:
        order = orders[name][1]
        heads = (head for head in groups if order.begins(orders[head][1]))
        groups[next(heads, name)].append(name)
    found = [_trajectory(orders, members) for members in groups.values()]
    return sorted(found, key=lambda trajectory: -trajectory.order.work)


def _trajectory(orders: Mapping[str, tuple[Scenario, Order]], members: Iterable[str]) -> Trajectory:
    names = tuple(members)
    scenario, longest = orders[names[0]]
    mine = [orders[name][1] for name in names]
    stops = {(len(o.steps), _key(o.stop)): (len(o.steps), o.stop) for o in mine}
    return Trajectory(
        scenario,
        longest,
        names,
        frozenset(len(order.steps) for order in mine),
        tuple(stops[key] for key in sorted(stops)),
    )


def _key(stop: Stop | None) -> str:
    return json.dumps(stop.key) if stop else ""
