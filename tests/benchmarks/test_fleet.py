"""A large fleet against bare SimPy: time, how it grows with the number of devices, and memory.

Not part of the default run: `pytest tests/benchmarks/test_fleet.py -s`, on a machine that is not
busy. A pair of runs of 100,000 devices takes some four minutes; `MOBISIM_FLEET=20000` in the
environment makes do with fewer. What was measured is remembered, so that it can be done in pieces:
`-k few`, then `-k many-0`, `-k many-1`, `-k many-2`, and `-k judged` in the end.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import simpy
from test_speed import report, seconds
from worlds import device, stated

from mobisim import Options, run
from mobisim.scenario.schema import Scenario

FEW, MANY = 1_000, int(os.environ.get("MOBISIM_FLEET", "100_000"))
NUM_BATCHES, RUN_AHEAD = 10, 4
PAIRS = 3
PIECES = {"few": (FEW, 7), **{f"many-{pair}": (MANY, 1) for pair in range(PAIRS)}}
# Seconds of forward, encoding and transfer in ten sorts of device, some bound by their link.
SORTS = [(0.3 * k, 0.1 * k, 0.25 * (1 + 7 * k % 10)) for k in range(1, 11)]


def step_s(num_devices: int) -> float:
    """A step so short that one worker is as fast as the fleet."""
    rates = (1 / max(f + e, c) for f, e, c in SORTS)
    return len(SORTS) / (num_devices * sum(rates))


def fleet(num_devices: int) -> Scenario:
    """The fleet that both sides simulate."""
    count = num_devices // len(SORTS)
    groups = (
        device(f, encode_s=e, transfer_s=c, run_ahead=RUN_AHEAD, count=count) for f, e, c in SORTS
    )
    return stated(NUM_BATCHES, *groups, step_s=step_s(num_devices))


def bare_simpy(num_devices: int) -> float:
    """The same fleet as one writes it in SimPy: a process per actor, and nothing recorded."""
    env = simpy.Environment()
    server = simpy.Store(env)
    lasts = step_s(num_devices)

    def phone(
        forward_s: float, encode_s: float, credit: simpy.Container, uplink: simpy.Store
    ) -> Generator[simpy.Event, Any, None]:
        for number in range(NUM_BATCHES):
            yield credit.get(1)
            yield env.timeout(forward_s)
            yield env.timeout(encode_s)
            yield uplink.put(number)

    def link(
        transfer_s: float, credit: simpy.Container, uplink: simpy.Store
    ) -> Generator[simpy.Event, Any, None]:
        for _ in range(NUM_BATCHES):
            yield uplink.get()
            yield env.timeout(transfer_s)
            yield server.put(credit)

    def worker() -> Generator[simpy.Event, Any, None]:
        for _ in range(num_devices * NUM_BATCHES):
            credit = yield server.get()
            yield credit.put(1)
            yield env.timeout(lasts)

    for forward_s, encode_s, transfer_s in SORTS:
        for _ in range(num_devices // len(SORTS)):
            credit, uplink = simpy.Container(env, init=RUN_AHEAD), simpy.Store(env)
            env.process(phone(forward_s, encode_s, credit, uplink))
            env.process(link(transfer_s, credit, uplink))
    env.run(env.process(worker()))
    return float(env.now)


def ours(num_devices: int, folder: Path) -> None:
    """The same fleet, run and recorded."""
    run(fleet(num_devices), Options(plots=False, out=folder))


def measure(side: str, num_devices: int, times: int, folder: Path) -> dict[str, Any]:
    """Seconds of each run, and the most memory that this process held."""
    work: Callable[[], Any] = lambda: ours(num_devices, folder / side)  # noqa: E731
    if side == "simpy":
        work = lambda: bare_simpy(num_devices)  # noqa: E731
    ours(len(SORTS), folder / "first")  # which imports what is needed
    found = [seconds(work) for _ in range(times)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": found, "megabytes": peak / 1e6}


def in_a_process_of_its_own(side: str, num_devices: int, times: int, folder: Path) -> Any:
    """What one side takes."""
    asked = [side, str(num_devices), str(times), str(folder)]
    finished = subprocess.run(
        [sys.executable, __file__, *asked],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(finished.stdout)


def place(piece: str, side: str) -> str:
    """Where a figure is remembered."""
    return f"mobisim/fleet-{MANY}/{piece}/{side}"


@pytest.mark.parametrize("piece", PIECES)
def test_measured(piece: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Both sides of one pair, one after the other."""
    assert pytestconfig.cache is not None
    for side in ("mobisim", "simpy"):
        found = in_a_process_of_its_own(side, *PIECES[piece], tmp_path)
        pytestconfig.cache.set(place(piece, side), found)
        sys.stderr.write(f"\n{piece} {side}: {median(found['seconds']):.2f} s of processor time, ")
        sys.stderr.write(f"{found['megabytes']:.0f} MB\n")


def test_judged(pytestconfig: pytest.Config) -> None:
    """With 100,000 devices at most as long as bare SimPy, growing at most half as fast; 2 GB.

    The growth is what a mini-batch of a device costs more among so many devices than among 1,000,
    as a share of the latter.
    """
    assert pytestconfig.cache is not None
    found = {
        (piece, side): pytestconfig.cache.get(place(piece, side), None)
        for piece in PIECES
        for side in ("mobisim", "simpy")
    }
    if None in found.values():
        pytest.skip("not all pieces are measured yet")
    pairs = [
        [median(found[piece, side]["seconds"]) for side in ("mobisim", "simpy")] for piece in PIECES
    ]
    few, many = pairs[0], list(zip(*pairs[1:], strict=True))
    growth = []
    for side, first in zip(many, few, strict=True):
        growth.append(median(side) / first * FEW / MANY - 1)
        sys.stderr.write(f"\n{first / FEW / NUM_BATCHES * 1e6:.1f} us, then {growth[-1]:+.0%}")
    report("growth of a recorded run / of bare SimPy", [growth[0] / growth[1]], 0.5)
    ratios = [first / second for first, second in pairs[1:]]
    report(f"recorded run / bare SimPy, {MANY:,} devices", ratios, 1.0)
    peaks = [found[piece, "mobisim"]["megabytes"] for piece in PIECES]
    report(f"peak memory in MB, {MANY:,} devices", [max(peaks)], 2000)


def test_both_sides_simulate_the_same(tmp_path: Path) -> None:
    """To the last step."""
    recorded = run(fleet(FEW), Options(plots=False, out=tmp_path / "run")).summary
    assert recorded.makespan_s == pytest.approx(bare_simpy(FEW), rel=1e-9)


if __name__ == "__main__":
    side, num_devices, times, folder = sys.argv[1:]
    found = measure(side, int(num_devices), int(times), Path(folder))
    sys.stdout.write(json.dumps(found))
