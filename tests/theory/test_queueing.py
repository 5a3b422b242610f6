"""Random times against queueing theory: Little's law, M/M/1, M/D/1, M/M/2, M/M/3, D/M/1.

A device with exponential forward times and ample run-ahead, whose messages cross in next to no
time, is a Poisson source: its messages reach the next stage with exponential gaps.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest
from poisson import AMPLE, check_mean, exponential
from scipy import optimize, stats
from worlds import columns_of, device, random_world, stated, without_horizon, world_of

from mobisim.span import QUEUE, SERVER, STEP, TRANSFER, UPLINK, SpanColumns
from mobisim.world import World

NUM_BATCHES = 40_000
REPLICATIONS = 6


def mean_wait(world: World, kind: int, role: int) -> float:
    """Mean time in the queue before the pieces of `kind`, those that did not wait included."""
    columns = columns_of(world)
    queued = columns[(columns.kind == QUEUE) & (world.actors.roles[columns.actor] == role)]
    return float((queued.end - queued.start).sum() / (columns.kind == kind).sum())


def server_waits(arrival: Any, step: Any, workers: int = 1) -> list[float]:
    """Mean waits at the server in independent replications."""
    group = device(arrival, transfer_s=1e-6)
    return [
        mean_wait(
            world_of(stated(NUM_BATCHES, group | AMPLE, step_s=step, workers=workers, seed=seed)),
            STEP,
            SERVER,
        )
        for seed in range(REPLICATIONS)
    ]


def test_m_m_1() -> None:
    """Mean wait u·s ÷ (1 - u), u = s·λ: exponential steps, Poisson arrivals."""
    s = u = 0.7
    check_mean(server_waits(exponential(1.0), exponential(s)), u * s / (1 - u))


def test_m_d_1() -> None:
    """Mean wait u·s ÷ (2(1 - u)), half of M/M/1's: constant steps."""
    s = u = 0.7
    check_mean(server_waits(exponential(1.0), s), u * s / (2 * (1 - u)))


def test_m_m_2() -> None:
    """Mean wait C·s ÷ (2(1 - u)), C = 2u² ÷ (1 + u) by Erlang's formula: two workers."""
    s, u = 1.4, 0.7
    expected = 2 * u**2 / (1 + u) * s / (2 * (1 - u))
    check_mean(server_waits(exponential(1.0), exponential(s), workers=2), expected)


def fleet_waits(step: Any, workers: int, num_devices: int = 5) -> list[float]:
    """Mean waits of a fleet that together sends one mini-batch a second, up to a horizon."""
    group = device(exponential(num_devices), transfer_s=1e-6, count=num_devices)
    horizon = f"{NUM_BATCHES} s"
    return [
        mean_wait(
            world_of(
                stated(
                    10**6, group | AMPLE, step_s=step, workers=workers, seed=seed, horizon=horizon
                )
            ),
            STEP,
            SERVER,
        )
        for seed in range(REPLICATIONS)
    ]


def test_m_d_1_of_a_fleet() -> None:
    """Poisson sources together are one: the wait of M/D/1 behind five devices."""
    s = u = 0.7
    check_mean(fleet_waits(s, 1), u * s / (2 * (1 - u)))


def test_m_m_3_of_a_fleet() -> None:
    """Mean wait C·s ÷ (c(1 - u)) behind five devices, C the share that waits (Erlang's formula).

    C = top ÷ ((1 - u)·Σ aᵏ ÷ k! + top) with a = c·u, top = aᶜ ÷ c! and k below c.
    """
    workers, u = 3, 0.8
    a = workers * u
    top = a**workers / math.factorial(workers)
    below = sum(a**k / math.factorial(k) for k in range(workers))
    share = top / ((1 - u) * below + top)
    check_mean(fleet_waits(exponential(a), workers), share * a / (workers * (1 - u)))


def test_d_m_1() -> None:
    """Mean wait z·s ÷ (1 - z), z the root below 1 of z = exp(-(1 - z) ÷ s): constant arrivals."""
    s = 0.8
    z = optimize.brentq(lambda x: x - math.exp(-(1 - x) / s), 0.0, 1 - 1e-6)
    check_mean(server_waits(1.0, exponential(s)), z * s / (1 - z))


def test_m_d_1_at_the_uplink() -> None:
    """The uplink is M/D/1 as well: mean wait u·c ÷ (2(1 - u)) for random forwards."""
    c = u = 0.7
    group = device(exponential(1.0), transfer_s=c) | AMPLE
    waits = [
        mean_wait(world_of(stated(NUM_BATCHES, group, step_s=1e-6, seed=seed)), TRANSFER, UPLINK)
        for seed in range(REPLICATIONS)
    ]
    check_mean(waits, u * c / (2 * (1 - u)))


def test_exponential_factors_have_mean_and_deviation_one() -> None:
    """Random forwards last their mean on average, and spread by as much."""
    columns = columns_of(world_of(stated(20_000, device(exponential(2.0)) | AMPLE, step_s=0.1)))
    lasted = (columns.end - columns.start)[columns.kind == 0]
    assert lasted.mean() == pytest.approx(2.0, rel=0.03)
    assert lasted.std() == pytest.approx(2.0, rel=0.03)
    assert stats.kstest(lasted, "expon", args=(0, 2.0)).pvalue > 0.01


def queue_lengths_integrated(joins: Any, leaves: Any) -> float:
    """Mini-batch seconds spent waiting: the number in the queue, summed over time."""
    at = np.concatenate([joins, leaves])
    change = np.concatenate([np.ones(len(joins)), -np.ones(len(leaves))])
    order = np.argsort(at, kind="stable")
    return float(np.sum(np.cumsum(change[order])[:-1] * np.diff(at[order])))


@pytest.mark.parametrize("seed", range(40))
def test_littles_law(seed: int) -> None:
    """L = λW at the server: arrivals and take-ups counted over time, against the queue spans.

    L·T is integrated from when first messages arrive and when workers take mini-batches up, which
    the spans around the queue say; λ·W·T is the sum of the queue spans themselves.
    """
    world = without_horizon(random_world(Random(seed)))
    columns = columns_of(world)
    joins, leaves = _first_arrivals(world, columns), _take_ups(world, columns)
    queued = columns[(columns.kind == QUEUE) & (columns.actor == world.actors.server)]
    waited = float((queued.end - queued.start).sum())
    assert queue_lengths_integrated(joins, leaves) == pytest.approx(waited, rel=1e-9, abs=1e-9)


def _by_batch(columns: SpanColumns, at: Any, best: Any) -> Any:
    keys = columns.device.astype(np.int64) * 10**6 + columns.batch
    _, index = np.unique(keys, return_inverse=True)
    found = np.full(index.max() + 1, np.inf)
    best.at(found, index, at)
    return found


def _first_arrivals(world: World, columns: SpanColumns) -> Any:
    """When each mini-batch's first message had crossed its link and flown."""
    uplink = (world.actors.roles[columns.actor] == UPLINK) & (columns.kind != QUEUE)
    crossed = columns[uplink]
    latency = np.array([group.latency_s for group in world.groups])[world.group_of[crossed.device]]
    last = crossed[(crossed.kind == TRANSFER) == (latency == 0)]
    return _by_batch(last, last.end, np.minimum)


def _take_ups(world: World, columns: SpanColumns) -> Any:
    """When a worker first worked on each mini-batch."""
    workers = columns[columns.actor > world.actors.server]
    return _by_batch(workers, workers.start, np.minimum)


def test_devices_that_join_over_the_day_are_a_poisson_stream() -> None:
    """Mean wait u·s ÷ (2(1 - u)) where each has one mini-batch; by hours, that of each hour."""
    count, within_s, s = 4_000, 8_000.0, 1.0
    group = device(1e-6, transfer_s=1e-6, count=count)
    late = {"absences": {"joins": {"within": f"{within_s} s"}}}
    waits = [
        mean_wait(world_of(stated(1, group | late, step_s=s, seed=seed)), STEP, SERVER)
        for seed in range(8)
    ]
    u = count / within_s * s
    check_mean(waits, u * s / (2 * (1 - u)))
    hours = {"absences": {"joins": {"within": f"{within_s} s", "shares": [1, 3]}}}
    columns = columns_of(world_of(stated(1, group | hours, step_s=0.1, seed=1)))
    begun = columns.start[columns.kind == STEP]
    assert (begun > within_s / 2).mean() == pytest.approx(0.75, abs=0.02)
