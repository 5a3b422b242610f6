"""A large fleet against bare SimPy: time, how it grows with the number of devices, and memory.

Not part of the default run: `pytest tests/benchmarks -s`, on a machine that is not busy. A pair of
runs of 100,000 devices takes three minutes; `MOBISIM_FLEET=20000` in the environment makes do with
fewer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import simpy
from test_speed import peak_memory_mb, report, seconds, write
from worlds import device, stated

from mobisim import Options, run
from mobisim.scenario.schema import Scenario

FEW, MANY = 1_000, int(os.environ.get("MOBISIM_FLEET", "100_000"))
NUM_BATCHES, RUN_AHEAD = 10, 4
PAIRS = {FEW: 7, MANY: 3}
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


def test_a_fleet_against_bare_simpy(tmp_path: Path) -> None:
    """With 100,000 devices at most as long as bare SimPy, and growing at most half as fast.

    The growth is what a mini-batch of a device costs more among so many devices than among 1,000,
    as a share of the latter.
    """
    recorded = run(fleet(FEW), Options(plots=False, out=tmp_path / "first")).summary
    assert recorded.makespan_s == pytest.approx(bare_simpy(FEW), rel=1e-9)

    def ours(num_devices: int) -> Callable[[], Any]:
        options = Options(plots=False, out=tmp_path / str(num_devices))
        return lambda: run(fleet(num_devices), options)

    def pair(num_devices: int) -> tuple[float, float]:
        return seconds(ours(num_devices)), seconds(lambda: bare_simpy(num_devices))

    pairs = {count: [pair(count) for _ in range(times)] for count, times in PAIRS.items()}
    growth = []
    for few, many in zip(*(map(median, zip(*pairs[n], strict=True)) for n in PAIRS), strict=True):
        growth.append(many / few * FEW / MANY - 1)
        sys.stderr.write(f"\n{few / FEW / NUM_BATCHES * 1e6:.1f} us, then +{growth[-1]:.0%}")
    report("growth of a recorded run / of bare SimPy", [growth[0] / growth[1]], 0.5)
    ratios = [first / second for first, second in pairs[MANY]]
    report(f"recorded run / bare SimPy, {MANY:,} devices", ratios, 1.0)


def test_a_fleet_in_2_gb(tmp_path: Path) -> None:
    """Peak memory of all these devices with 10 mini-batches each."""
    scenario = tmp_path / "fleet.yaml"
    write(scenario, fleet(MANY))
    megabytes = peak_memory_mb(scenario, tmp_path)
    sys.stderr.write(f"\npeak memory of {MANY:,} devices: {megabytes:.0f} MB, limit 2000\n")
    assert megabytes < 2000
