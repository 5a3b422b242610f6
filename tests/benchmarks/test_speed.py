"""Speed and memory against what they are compared with: paired runs, medians, a small table.

Not part of the default run: `pytest tests/benchmarks -s`, on a machine that is not busy.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import simpy
from pytest_benchmark.fixture import BenchmarkFixture
from worlds import device, stated

from mobisim import Options, run
from mobisim.scenario.schema import Scenario

NUM_BATCHES = 100_000
FORWARD_S, ENCODE_S, TRANSFER_S, STEP_S, RUN_AHEAD = 0.3, 0.1, 0.5, 0.2, 4


def pipeline(num_batches: int) -> Scenario:
    """The pipeline that both sides simulate."""
    group = device(FORWARD_S, encode_s=ENCODE_S, transfer_s=TRANSFER_S, run_ahead=RUN_AHEAD)
    return stated(num_batches, group, step_s=STEP_S)


def bare_simpy(num_batches: int) -> float:
    """The same pipeline as one writes it in SimPy, without recording anything."""
    env = simpy.Environment()
    uplink, server = simpy.Store(env), simpy.Store(env)
    credit = simpy.Container(env, init=RUN_AHEAD)

    def phone() -> Generator[simpy.Event, Any, None]:
        for number in range(num_batches):
            yield credit.get(1)
            yield env.timeout(FORWARD_S)
            yield env.timeout(ENCODE_S)
            yield uplink.put(number)

    def link() -> Generator[simpy.Event, Any, None]:
        for _ in range(num_batches):
            number = yield uplink.get()
            yield env.timeout(TRANSFER_S)
            yield server.put(number)

    def worker() -> Generator[simpy.Event, Any, None]:
        for _ in range(num_batches):
            yield server.get()
            yield credit.put(1)
            yield env.timeout(STEP_S)

    env.process(phone())
    env.process(link())
    done = env.process(worker())
    env.run(done)
    return float(env.now)


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call: what else the machine does counts for less."""
    gc.collect()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def paired(first: Callable[[], Any], second: Callable[[], Any], pairs: int) -> list[float]:
    """Ratios of neighbouring runs."""
    ratios = []
    for _ in range(pairs):
        ours = seconds(first)
        ratios.append(ours / seconds(second))
    return ratios


def report(what: str, ratios: list[float], limit: float) -> None:
    """One line of the table; too high a median fails."""
    low, middle, high = min(ratios), median(ratios), max(ratios)
    line = f"{what:<52} {middle:6.2f} ({low:.2f} to {high:.2f}), limit {limit:g}"
    sys.stderr.write(f"\n{line}\n")
    assert middle <= limit, line


def test_recording_against_bare_simpy(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Simulating and recording 100,000 mini-batches takes at most 1.5 times bare SimPy."""
    scenario = pipeline(NUM_BATCHES)
    found = run(scenario, Options(plots=False, out=tmp_path / "first")).summary
    assert found.makespan_s == pytest.approx(bare_simpy(NUM_BATCHES), rel=1e-9)

    def record() -> None:
        run(scenario, Options(plots=False, out=tmp_path / "again"))

    benchmark.pedantic(record, rounds=1)  # type: ignore[no-untyped-call]
    ratios = paired(record, lambda: bare_simpy(NUM_BATCHES), pairs=7)
    report("recorded run / bare SimPy, 100,000 mini-batches", ratios, 1.5)


PEAK_MEMORY = """
import resource, sys
from pathlib import Path
from mobisim import Options, load, run
run(load(sys.argv[1]), Options(plots=False, out=Path(sys.argv[2])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak_memory_mb(scenario: Path, folder: Path) -> float:
    """The most memory that a run of its own holds."""
    command = [sys.executable, "-c", PEAK_MEMORY, str(scenario), str(folder / "out")]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(finished.stdout) / 1e6


def test_a_million_mini_batches_in_400_mb(tmp_path: Path) -> None:
    """Peak memory follows the mini-batches under way, not the length of the run."""
    scenario = tmp_path / "million.yaml"
    write(scenario, pipeline(1_000_000))
    megabytes = peak_memory_mb(scenario, tmp_path)
    line = f"{'peak memory of a million mini-batches':<52} {megabytes:6.0f} MB, limit 400"
    sys.stderr.write(f"\n{line}\n")
    assert megabytes < 400, line


def write(path: Path, scenario: Scenario) -> None:
    """A scenario as a file; JSON is YAML."""
    path.write_text(scenario.model_dump_json(), encoding="utf-8")


IMPORTS = [sys.executable, "-c", "import click, pydantic, yaml, simpy"]
MOBISIM = [sys.executable, "-m", "mobisim"]


@pytest.mark.parametrize(("command", "limit"), [("--help", 3.0), ("run", 6.0)])
def test_start_up(command: str, limit: float, tmp_path: Path) -> None:
    """Help within 3 times, a short timing-only run within 6 times, the imports both rest on."""
    arguments = [*MOBISIM, command]
    if command == "run":
        scenario = tmp_path / "short.yaml"
        write(scenario, pipeline(200))
        arguments += [str(scenario), "--no-plots", "--out", str(tmp_path / "out")]
    for warm_up in (arguments, IMPORTS):
        wall(warm_up)
    ratios = [wall(arguments) / wall(IMPORTS) for _ in range(15)]
    report(f"mobisim {command} / import click, pydantic, yaml, simpy", ratios, limit)


def wall(command: list[str]) -> float:
    """Wall time of a process."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun
