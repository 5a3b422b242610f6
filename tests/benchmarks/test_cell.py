"""What one transfer costs on a shared medium, as ever more of them are under way at a time.

Not part of the default run: `pytest tests/benchmarks -s`, on a machine that is not busy.
"""

from __future__ import annotations

import gc
import sys
import time
from statistics import median

from mobisim.sim.cell import Cell, Member
from mobisim.sim.kernel import Clock

FEW, MANY = 10, 1_000
TRANSFERS = 20_000
PAIRS = 15
LIMIT = 1.5
RATE = 1e9


def seconds_per_transfer(concurrent: int) -> float:
    """Processor time of one transfer where so many are always under way."""
    clock = Clock()
    cell = Cell(clock, RATE)
    members = [Member(cell, index, index, 1, RATE) for index in range(concurrent)]
    carried = 0

    def begin(index: int) -> None:
        nonlocal carried
        carried += 1
        # Sizes that spread, so that ends do not come in the order of arrivals.
        num_bytes = 125_000 + (carried * 7919) % 62_500
        members[index].carry(clock.now, num_bytes, 0.0, lambda _: begin(index))

    for index in range(concurrent):
        begin(index)
    gc.collect()
    carried, begun = 0, time.process_time()
    while carried < TRANSFERS:
        clock.step()
    return (time.process_time() - begun) / carried


def test_a_transfer_costs_hardly_more_among_a_thousand_than_among_ten() -> None:
    """Without caps at most 1.5 times from 10 to 1,000 concurrent transfers."""
    seconds_per_transfer(FEW)
    pairs = [(seconds_per_transfer(MANY), seconds_per_transfer(FEW)) for _ in range(PAIRS)]
    ratios = [many / few for many, few in pairs]
    few = median(few for _, few in pairs) * 1e6
    line = (
        f"transfer among {MANY:,} / among {FEW} on a cell: {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), limit {LIMIT:g}; among {FEW}: {few:.1f} us"
    )
    sys.stderr.write(f"\n{line}\n")
    assert median(ratios) <= LIMIT, line
