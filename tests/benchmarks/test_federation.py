"""What a hundred devices cost to train beside one with all of their samples: paired runs, medians.

Not part of the default run: `pytest tests/benchmarks -s`, on a machine that is not busy.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

from mobisim import Options, load, run

PAIRS = 3
SAMPLES = ("training.num_samples=1600", "federation.replay.steps=400")
IID = "federation.partition={kind: iid}"
ALIKE = "devices=[{profile: pixel-8, link: lte, model: opt-350m, count: COUNT}]"


def wall(count: int, out: Path) -> float:
    """Wall time of a run with so many devices of one backbone."""
    scenario = load("fed_builtin", [ALIKE.replace("COUNT", str(count)), *SAMPLES, IID])
    begun = time.perf_counter()
    run(scenario, Options(plots=False, out=out))
    return time.perf_counter() - begun


def test_a_hundred_devices_share_what_they_forward(tmp_path: Path) -> None:
    """Of equal samples and steps: at most three times as long as one device."""
    ratios = []
    for number in range(PAIRS):
        one = wall(1, tmp_path / f"one-{number}")
        hundred = wall(100, tmp_path / f"hundred-{number}")
        ratios.append(hundred / one)
        sys.stderr.write(f"\n{hundred:.1f} s for a hundred devices, {one:.1f} s for one\n")
    middle = median(ratios)
    sys.stderr.write(f"\n{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), wanted <= 3\n")
    assert middle <= 3  # each device fits and judges by a head of its own
