"""Disciplines against queueing theory: conservation, priorities, equal shares."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from poisson import AMPLE, check_mean, exponential
from worlds import DISCIPLINES, columns_of, device, stated, world_of

from mobisim.span import QUEUE, STEP, SpanColumns
from mobisim.world import World

HORIZON_S = 20_000
STEPS_S = 0.4, 1.6  # of the first device's mini-batches, and of the second's
GAPS_S = 1.0, 4.0
SHARES = [step / gap for step, gap in zip(STEPS_S, GAPS_S, strict=True)]
# What is left of the step at hand, as a mini-batch that joins finds it.
RESIDUAL = sum(share * step / 2 for share, step in zip(SHARES, STEPS_S, strict=True))


def unequal(
    gaps: tuple[Any, Any], discipline: str, seed: int = 0, horizon_s: int = HORIZON_S
) -> World:
    """Two devices whose mini-batches take the worker STEPS_S."""
    groups = (device(gap, transfer_s=1e-6) | AMPLE for gap in gaps)
    horizon = f"{horizon_s} s"
    scenario = stated(10**6, *groups, step_s=1.0, discipline=discipline, seed=seed, horizon=horizon)
    world = world_of(scenario)
    with_steps = (
        replace(group, batches=(replace(group.batches[0], step_s=step_s),))
        for group, step_s in zip(world.groups, STEPS_S, strict=True)
    )
    return replace(world, groups=tuple(with_steps))


def of_both(columns: SpanColumns, values: Any = None) -> NDArray[np.float64]:
    """A sum for each device."""
    found = np.bincount(columns.device, values, 2)
    return found.astype(np.float64)


@cache
def mean_waits(discipline: str) -> list[NDArray[np.float64]]:
    """The mean wait of each device's mini-batches, by replication."""
    found = []
    for seed in range(5):
        columns = columns_of(unequal((exponential(1.0), exponential(4.0)), discipline, seed))
        queued, steps = columns[columns.kind == QUEUE], columns[columns.kind == STEP]
        at_server = queued[queued.actor == 6]
        waited = of_both(at_server, at_server.end - at_server.start)
        found.append(waited / of_both(steps))
    return found


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_no_discipline_changes_the_work_that_waits(discipline: str) -> None:
    """Kleinrock: Σ u_i·w_i = u·R ÷ (1 - u) whatever the order, u_i a device's share of the time."""
    u = sum(SHARES)
    sums = [float(np.dot(SHARES, waits)) for waits in mean_waits(discipline)]
    check_mean(sums, u * RESIDUAL / (1 - u))


def test_the_shortest_job_waits_as_a_priority_does() -> None:
    """Cobham: R ÷ (1 - u_1) for the short, that ÷ (1 - u_1 - u_2) for the long ones."""
    short, long = zip(*mean_waits("shortest-job"), strict=True)
    check_mean(list(short), RESIDUAL / (1 - SHARES[0]))
    check_mean(list(long), RESIDUAL / ((1 - SHARES[0]) * (1 - sum(SHARES))))


def test_first_come_makes_all_wait_alike() -> None:
    """Poisson arrivals find what the average finds, whosever they are."""
    for of_one in zip(*mean_waits("first-come"), strict=True):
        check_mean(list(of_one), RESIDUAL / (1 - sum(SHARES)))


@pytest.mark.parametrize(("discipline", "counts"), [("round-robin", 1.0), ("fair", 4.0)])
def test_devices_that_always_wait_share(discipline: str, counts: float) -> None:
    """In turn, as many steps each; fairly, as much of its time, so four short for one long."""
    columns = columns_of(unequal((0.5, 1.0), discipline, horizon_s=2_000))
    steps = of_both(columns[columns.kind == STEP])
    assert steps[0] / steps[1] == pytest.approx(counts, rel=5e-3)
    assert steps @ STEPS_S == pytest.approx(2_000, rel=5e-3)
