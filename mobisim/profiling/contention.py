"""Contention: the work of one role beside that of the other, on one machine.

Pieces are timed in pairs, alone and beside, in changing order, so that drift cancels. What runs
beside has a process and, where the system can pin, cores of its own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event

import torch

from mobisim.errors import InputError
from mobisim.profiling.cases import Bench, Case, Grid, Role
from mobisim.profiling.statistics import quantile
from mobisim.profiling.whole import whole_cases
from mobisim.scenario.profiles import Contention
from mobisim.scenario.quantities import Sourced

PAIRS = 24  # of each piece of work
OTHER: dict[Role, Role] = {"device": "server", "server": "device"}
WORDS: dict[Role, str] = {
    "device": "a device's forwards and encodings",
    "server": "a server's steps",
}
WAIT_S = 120.0  # for a process to come up: it imports torch


@dataclass
class Neighbour:
    """Work in another process, which can be told to go on and to rest."""

    go: Event
    busy: Event
    rests: Event

    def works(self) -> None:
        """Let it work; it does once this returns."""
        self.rests.clear()
        self.go.set()
        _await(self.busy)

    def pauses(self) -> None:
        """Let it rest; it does once this returns."""
        self.go.clear()
        _await(self.rests)


def _await(event: Event) -> None:
    if not event.wait(WAIT_S):
        raise InputError("the process that should run beside does not answer", where="--contention")


def contention(
    bench: Bench, grid: Grid, role: Role, threads: int, progress: Callable[[str, int, int], None]
) -> Contention:
    """How much longer the work of `role` lasts beside the other role's."""
    cores = usable_cores()
    own, others = (cores[:-1], cores[-1:]) if threads < len(cores) else (cores, cores)
    ratios: list[float] = []
    cases = whole_cases(bench, grid, role)
    with _pinned(own), _neighbour(OTHER[role], grid, others) as neighbour:
        for number, case in enumerate(cases):
            for pair, ratio in enumerate(_ratios(case, neighbour)):
                ratios.append(ratio)
                progress("beside another", number * PAIRS + pair + 1, len(cases) * PAIRS)
    p10, middle, p90 = (round(quantile(ratios, share), 4) for share in (0.1, 0.5, 0.9))
    place = f"on {'a core of its own' if own != others else 'the same cores'}"
    return Contention(
        slowdown=Sourced[float](value=middle, source="measured"),
        p10=p10,
        p90=p90,
        repeats=len(ratios),
        beside=f"{WORDS[OTHER[role]]} in one thread {place}, {threads} thread(s) here",
    )


def check_contention(device: torch.device, clock: str) -> None:
    """Refuse what cannot be measured, before anything is.

    Raises:
        InputError: an accelerator, a single core, or processor time, which hides it.
    """
    trouble = None
    if device.type != "cpu":
        trouble = f"work on {device.type}"
    elif clock != "wall":
        trouble = "processor time"
    elif len(usable_cores()) < 2:  # noqa: PLR2004 - one for each side
        trouble = "one core"
    if trouble is not None:
        raise InputError(
            "contention is measured between processor cores, by the wall clock",
            where="--contention",
            got=trouble,
            hint="leave --contention out",
        )


def _ratios(case: Case, neighbour: Neighbour) -> Iterator[float]:
    """Seconds beside over seconds alone, pair by pair."""
    run = case.start()
    run()

    def alone() -> float:
        neighbour.pauses()
        return sum(run().values())

    def beside() -> float:
        neighbour.works()
        seconds = sum(run().values())
        neighbour.pauses()
        return seconds

    for pair in range(PAIRS):
        if pair % 2:
            first = alone()
            yield beside() / first
        else:
            yield beside() / alone()


def usable_cores() -> list[int]:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _pin(cores: list[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@contextmanager
def _pinned(cores: list[int]) -> Iterator[None]:
    before = usable_cores()
    _pin(cores)
    try:
        yield
    finally:
        _pin(before)


@contextmanager
def _neighbour(role: Role, grid: Grid, cores: list[int]) -> Iterator[Neighbour]:
    context = multiprocessing.get_context("spawn")
    neighbour = Neighbour(context.Event(), context.Event(), context.Event())
    process = context.Process(target=_work, args=(role, grid, cores, neighbour), daemon=True)
    process.start()
    try:
        _await(neighbour.rests)
        yield neighbour
    finally:
        process.kill()
        process.join()


def _work(role: Role, grid: Grid, cores: list[int], told: Neighbour) -> None:
    """The other process: all pieces of the role in turn for as long as it may go on."""
    _pin(cores)
    torch.set_num_threads(1)
    pieces = [case.start() for case in whole_cases(Bench(torch.device("cpu")), grid, role)]
    for piece in pieces:
        piece()
    while True:
        told.rests.set()
        told.go.wait()
        told.busy.set()
        for piece in itertools.takewhile(lambda _: told.go.is_set(), itertools.cycle(pieces)):
            piece()
        told.busy.clear()
