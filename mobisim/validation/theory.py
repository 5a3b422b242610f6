"""`mobisim validate --theory`: the engine against closed forms and queueing results.

Each form is derived in DESIGN.md, "What follows from these rules". Constant times agree but for
rounding; random ones within the confidence interval of their replications.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mobisim.cost.system import System
from mobisim.errors import MobisimError
from mobisim.scenario.load import loads
from mobisim.sim.engine import simulate
from mobisim.span import QUEUE, STEP, SpanColumns
from mobisim.workload import plan
from mobisim.world import build

COLUMNS = ("form", "what it says", "cases", "worst relative error", "allowed")
ROUNDING = 1e-9
STAGES = list(itertools.permutations((0.3, 0.5, 1.1)))
RANDOM_BATCHES, REPLICATIONS = 20_000, 6
SIGMAS = 4.0  # of the mean of the replications: wrong once in ten thousand tries

TEMPLATE = """
name: theory
seed: {seed}
num_batches: {n}
deliver: none
wire: {{payload_bytes: 125000}}
devices:
  - profile: {{kind: fixed, forward_s: {f}, encode_s: 0}}
    link: {{kind: constant, uplink: {rate!r} Mbit/s, latency: {latency} s, overhead_bytes: 0}}
    count: {devices}
    run_ahead: {ahead}
server: {{profile: {{kind: fixed, step_s: {s}}}, workers: {workers}}}
"""


class TheoryError(MobisimError):
    """The engine and a closed form disagree: a defect of mobisim."""

    exit_code = 1


@dataclass(frozen=True)
class Checked:
    """One form, how many cases of it were run, and how far the engine was off at worst."""

    name: str
    says: str
    cases: int
    worst: float
    allowed: float

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        return self.name, self.says, str(self.cases), f"{self.worst:.1e}", f"{self.allowed:.1e}"


def spans(
    n: int, f: object, c: float, s: object, *, ahead: int = 1000, latency: float = 0.0,
    devices: int = 1, workers: int = 1, seed: int = 0,
) -> SpanColumns:  # fmt: skip
    """All spans of so many mini-batches with these times."""
    text = TEMPLATE.format(
        n=n, f=f, rate=1 / c, s=s, ahead=ahead, latency=latency, devices=devices,
        workers=workers, seed=seed,
    )  # fmt: skip
    scenario = loads(text, "theory")
    world = build(System(scenario), plan(scenario).workload)
    return SpanColumns.concatenate(block.columns for block in simulate(world))


def makespan(*args: float, **options: float) -> float:
    """When the last span ends."""
    return float(spans(*args, **options).end.max())  # type: ignore[arg-type] # by keyword


def _any_run_ahead() -> Iterator[float]:
    for (f, c, s), ahead, latency in itertools.product(STAGES, (1, 2, 3, 7), (0.0, 0.25, 3.0)):
        m, (q, rest) = max(f, c, s), divmod(17, ahead)
        loop = f + c + latency
        expected = loop + s + max(17 * m, q * loop + rest * m)
        yield makespan(18, f, c, s, ahead=ahead, latency=latency) / expected - 1


def _devices() -> Iterator[float]:
    for (f, c, s), count in itertools.product(STAGES, (1, 2, 5, 20)):
        expected = f + c + count * s + 11 * max(f, c, count * s)
        yield makespan(12, f, c, s, devices=count) / expected - 1


def _workers() -> Iterator[float]:
    for (f, c, s), count in itertools.product(STAGES, (1, 2, 3, 7)):
        m, (q, rest) = max(f, c), divmod(19, count)
        expected = f + c + s + max(19 * m, q * s + rest * m)
        yield makespan(20, f, c, s, workers=count) / expected - 1


def _waits(f: object, s: object, workers: int = 1) -> list[float]:
    """Mean waits for the server in independent replications."""
    found = []
    for seed in range(REPLICATIONS):
        columns = spans(RANDOM_BATCHES, f, 1e-6, s, ahead=10**6, workers=workers, seed=seed)
        queued = (columns.kind == QUEUE) & (columns.actor == 3)  # noqa: PLR2004 - the server's queue
        waited = float((columns.end - columns.start)[queued].sum())
        found.append(waited / int((columns.kind == STEP).sum()))
    return found


def _random(mean: float) -> str:
    return f"{{mean: {mean!r} s, distribution: exponential}}"


def _queue(name: str, says: str, waits: list[float], expected: float) -> Checked:
    mean = float(np.mean(waits))
    error = float(np.std(waits, ddof=1)) / REPLICATIONS**0.5
    return Checked(name, says, len(waits), abs(mean / expected - 1), SIGMAS * error / expected)


def _closed(name: str, says: str, errors: Callable[[], Iterator[float]]) -> Checked:
    found = [abs(error) for error in errors()]
    return Checked(name, says, len(found), max(found), ROUNDING)


def check_all() -> list[Checked]:
    """Every form.

    Raises:
        TheoryError: one of them is not met.
    """
    u = 0.7
    poisson = _random(1.0)
    found = [
        _closed("run-ahead", "makespan for any run-ahead and latency", _any_run_ahead),
        _closed("devices", "makespan of D devices at one worker", _devices),
        _closed("workers", "makespan of one device at W workers", _workers),
        _queue("M/M/1", "mean wait u·s ÷ (1 - u)", _waits(poisson, _random(u)), u * u / (1 - u)),
        _queue("M/D/1", "mean wait u·s ÷ 2(1 - u)", _waits(poisson, u), u * u / (2 * (1 - u))),
        _queue(
            "M/M/2", "Erlang's formula", _waits(poisson, _random(2 * u), 2),
            2 * u**2 / (1 + u) * 2 * u / (2 * (1 - u)),
        ),
    ]  # fmt: skip
    for one in found:
        if one.worst > one.allowed:
            raise TheoryError(f"{one.name}: {one.worst:.2e} off, allowed {one.allowed:.2e}")
    return found
