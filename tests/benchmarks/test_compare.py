"""How long all methods are compared with timing only: processor time of whole processes, medians.

Not part of the default run: `pytest tests/benchmarks -s`, on a machine that is not busy.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

ROUNDS = 5
LIMIT_S = 5.0
COMPARE = [sys.executable, "-m", "mobisim", "compare", "wifi_20mbps", "--no-train", "--out"]


def seconds(command: list[str]) -> float:
    """Processor time of a process: what else the machine does counts for less."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_all_methods_with_timing_only_take_under_5_s(tmp_path: Path) -> None:
    """Every method at eight rates, with crossings and the picture, imports included."""
    times = [seconds([*COMPARE, str(tmp_path / str(number))]) for number in range(ROUNDS)]
    line = (
        f"{'all methods compared, timing only':<52} {median(times):6.2f} s "
        f"({min(times):.2f} to {max(times):.2f}), limit {LIMIT_S:g} s"
    )
    sys.stderr.write(f"\n{line}\n")
    assert median(times) < LIMIT_S, line
