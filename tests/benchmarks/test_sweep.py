"""What a sweep costs beside what it saves: paired runs, medians.

Not part of the default run: `pytest tests/benchmarks -s`, on a machine that is not busy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from worlds import device, stated

from mobisim import Options, run
from mobisim.scenario import catalog
from mobisim.scenario.document import Document, parse
from mobisim.scenario.load import load
from mobisim.sweeps.grid import Axis, parse_axis
from mobisim.sweeps.plan import plan_sweep
from mobisim.sweeps.pools import processes
from mobisim.sweeps.run import sweep

PAIRS = 3
RATES = ",".join(f"{10 ** (number / 21):.4f}" for number in range(64))
BANDWIDTHS = parse_axis(f"devices[*].link.uplink={RATES} Mbit/s")


def wall(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def report(what: str, ratios: list[float], wanted: str) -> str:
    """One line of the table."""
    low, middle, high = min(ratios), median(ratios), max(ratios)
    line = f"{what:<60} {middle:6.2f} ({low:.2f} to {high:.2f}), {wanted}"
    sys.stderr.write(f"\n{line}\n")
    return line


def swept(document: Document, axis: Axis, out: Path, jobs: int | None = None) -> None:
    """A sweep over one axis."""
    assert sweep(plan_sweep(document, [axis], Options(out=out)), processes(jobs)).num_failed == 0


def test_a_trained_sweep_costs_one_training(tmp_path: Path) -> None:
    """64 bandwidths: at most 1.1 times one training and 64 runs of timing alone, in one process."""
    numbers = iter(range(1000))

    def many() -> None:
        swept(catalog.scenario("wifi_5mbps"), BANDWIDTHS, tmp_path / str(next(numbers)))

    def one_by_one() -> None:
        once = Options(plots=False, out=tmp_path / str(next(numbers)))
        run(load("wifi_5mbps"), once)
        for rate in BANDWIDTHS.values:
            timing = Options(plots=False, train=False, out=tmp_path / str(next(numbers)))
            run(load("wifi_5mbps", [f"devices[*].link.uplink={rate}"]), timing)

    one_by_one()  # imports torch; the sweep's workers do so within each measured call
    ratios = [wall(many) / wall(one_by_one) for _ in range(PAIRS)]
    line = report("trained sweep of 64 / a training and 64 timing runs", ratios, "limit 1.1")
    assert median(ratios) <= 1.1, line


def test_two_cores_are_faster_than_one(tmp_path: Path) -> None:
    """64 timing-only points of 20,000 mini-batches: at least 1.5 times as fast."""
    scenario = stated(20_000, device(0.4), step_s=0.2)
    numbers = iter(range(1000))

    def with_jobs(jobs: int) -> None:
        text = scenario.model_dump_json()  # JSON is YAML
        swept(parse(text, "stated"), BANDWIDTHS, tmp_path / str(next(numbers)), jobs)

    with_jobs(2)
    ratios = [wall(lambda: with_jobs(1)) / wall(lambda: with_jobs(2)) for _ in range(PAIRS)]
    line = report("64 points of 20,000 mini-batches, one core / two", ratios, "at least 1.5")
    assert median(ratios) >= 1.5, line
