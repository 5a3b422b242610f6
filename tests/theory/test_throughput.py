"""Steady-state throughput of a fleet: the server's pace or that of all devices together."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from worlds import columns_of, device, stated, world_of

from mobisim.span import STEP

STEPS_IN_WINDOW = 20_000
WITHIN = 1e-3


@pytest.mark.parametrize("seed", range(12))
def test_throughput_of_an_asynchronous_fleet(seed: int) -> None:
    """min(W ÷ s, Σ 1 ÷ max(f, c)) within 0.1 %, once it runs and before it drains.

    Devices with a run-ahead of four or more and links of their own produce at 1 ÷ max(f, c); the
    workers take in W ÷ s at most. The load is drawn from a third to three times the capacity.
    """
    choose = Random(seed)
    times = [(choose.uniform(0.5, 3), choose.uniform(0.5, 3)) for _ in range(choose.randint(2, 6))]
    workers = choose.choice([1, 2, 3])
    devices_rate = sum(1 / max(f, c) for f, c in times)
    server_rate = devices_rate * math.exp(choose.uniform(-math.log(3), math.log(3)))
    groups = [
        device(f, transfer_s=c, latency="50 ms", run_ahead=choose.choice([4, 5, 9]))
        for f, c in times
    ]
    expected = min(server_rate, devices_rate)
    until = 1.2 * STEPS_IN_WINDOW / expected
    world = world_of(
        stated(
            10**6, *groups, step_s=workers / server_rate, workers=workers, horizon=f"{until!r} s"
        )
    )
    columns = columns_of(world)
    ends = columns.end[(columns.kind == STEP) & ~columns.cut]
    window = ends[np.searchsorted(ends, until / 6) :]
    throughput = (len(window) - 1) / (window[-1] - window[0])
    assert throughput == pytest.approx(expected, rel=WITHIN)
