"""`mobisim profile`: measure this machine, and write what a scenario can name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from mobisim.cost.architecture import Architecture, architecture
from mobisim.errors import InputError, unknown_name
from mobisim.profiling.accuracy import fit_error
from mobisim.profiling.blocks import DTYPES, quantises, usual_precisions
from mobisim.profiling.bundle import (
    About,
    Found,
    RawSamples,
    memory_bytes,
    summarise,
    write_bundle,
)
from mobisim.profiling.cases import (
    FULL,
    QUICK,
    Bench,
    Case,
    Grid,
    Role,
    device_cases,
    server_cases,
)
from mobisim.profiling.contention import check_contention, contention
from mobisim.profiling.measure import Limits, Session, Taken
from mobisim.profiling.stopwatch import best_device
from mobisim.profiling.training_cases import training_cases
from mobisim.profiling.whole import spreads, whole_cases
from mobisim.scenario.load import validate_profile
from mobisim.scenario.models import read_model
from mobisim.scenario.profiles import TransformerProfile

QUICK_BUDGET_S, BUDGET_S = 75.0, 360.0
ROOMY, NARROWER = 14 << 30, 1024  # bytes below which blocks of the width at most are measured
DOUBTFUL = 0.15  # of the fit's error: idle machines stay far below
Clock = Literal["wall", "processor"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What to measure, and where the files go."""

    name: str
    folder: Path
    role: Role = "device"
    threads: int = 1
    budget_s: float = BUDGET_S
    precisions: tuple[str, ...] = field(default_factory=lambda: usual_precisions(best_device()))
    grid: Grid = FULL
    seed: int = 0
    clock: Clock = "wall"
    training: bool = True
    contention: bool = False

    @property
    def samples_path(self) -> Path:
        """The file of single samples; those of two clocks never mix."""
        suffix = "" if self.clock == "wall" else f".{self.clock}"
        return self.folder / f"{self.name}{suffix}.samples.csv"

    def within(self, budget_s: float | None) -> Plan:
        """The plan with another budget, where one is given."""
        return self if budget_s is None else replace(self, budget_s=budget_s)

    def at(self, precisions: str | None) -> Plan:
        """The plan with other precisions, where some are named; the first is the profile's own.

        Raises:
            InputError: one that is not timed, or one twice.
        """
        if precisions is None:
            return self
        names = tuple(precisions.split(","))
        for name in names:
            if name not in DTYPES:
                raise unknown_name("precision", name, DTYPES, where="--precisions")
        if len(set(names)) < len(names):
            raise InputError("a precision is named twice", where="--precisions", got=precisions)
        return replace(self, precisions=names)

    def of_models(self, models: str | None) -> Plan:
        """The plan with the shapes of named models besides, and samples of up to 1,024 tokens."""
        if models is None:
            return self
        found = tuple(_architecture(name) for name in models.split(","))
        return replace(self, grid=replace(self.grid, models=found))

    def with_training(self, training: bool | None) -> Plan:
        """The plan with or without the operators of training, where it is asked."""
        return self if training is None else replace(self, training=training)

    @property
    def method(self) -> str:
        """How it is measured, in words."""
        clock = "wall clock" if self.clock == "wall" else "processor time on a busy machine"
        return (
            f"{clock}, medians over rounds in random order, a budget of {self.budget_s:g} s or "
            "95 % intervals of the medians within 3 %; laps between kernels of a running block"
        )


def _architecture(name: str) -> Architecture:
    profile = validate_profile(TransformerProfile, read_model(name, "--models"))
    return architecture(profile.config, where="--models")


def quickly(plan: Plan) -> Plan:
    """The plan with fewer shapes, the first precision only, no training, and less time."""
    return replace(
        plan,
        grid=QUICK,
        budget_s=QUICK_BUDGET_S,
        precisions=plan.precisions[:1],
        training=False,
    )


def explained(plan: Plan, path: Path) -> str:
    """What was written, and how a scenario uses it."""
    place = f"devices: [{{profile: {path}, ...}}]"
    if plan.role == "server":
        place = f"server: {{profile: {path}}}"
    return f"{path} and {path.with_suffix('.csv').name} beside it; in a scenario:\n  {place}"


def profile(
    plan: Plan, notice: Callable[[str], None], progress: Progress = lambda *_: None
) -> Path:
    """Measure and write the bundle; the path of its YAML.

    Raises:
        InputError: samples of another measurement lie in the way, or nothing could be measured.
    """
    device = best_device()
    _check(plan, device)
    plan.folder.mkdir(parents=True, exist_ok=True)
    plan = _fitting(plan, memory_bytes(device), notice)
    with _threads(plan.threads):
        cases = _cases(Bench(device, plan.clock), plan)
        taken = _measured(plan, cases, notice, progress)
        beside = None
        if plan.contention:
            bench = Bench(device, plan.clock)
            beside = contention(bench, plan.grid, plan.role, plan.threads, progress)
    samples = summarise(taken, plan.threads)
    if not samples:
        raise InputError("nothing was measured", where="--budget", hint="give it more time")
    precision = plan.precisions[0] if plan.role == "device" else "fp32"
    about = About(plan.name, plan.role, device, plan.threads, precision, plan.grid, plan.method)
    error = fit_error(cases, taken, plan.threads)
    if error is not None and error.median > DOUBTFUL:
        notice(
            f"predicted without their own width, blocks are {error.median:.0%} off: was the "
            "machine idle? The same command goes on measuring"
        )
    return write_bundle(plan.folder, about, Found(samples, error, spreads(taken), beside))


def _fitting(plan: Plan, memory: int, notice: Callable[[str], None]) -> Plan:
    """The plan without the widest blocks and largest tensors, where they would not fit."""
    grid = plan.grid
    if not 0 < memory < ROOMY or grid.widths[-1] <= NARROWER:
        return plan
    widths = tuple(width for width in grid.widths if width <= NARROWER)
    notice(f"left out in {memory / 2**30:.1f} GiB of memory: blocks wider than {NARROWER}")
    return replace(plan, grid=replace(grid, widths=widths, parameters=grid.parameters[:-1]))


def _measured(
    plan: Plan, cases: list[Case], notice: Callable[[str], None], progress: Progress
) -> Taken:
    raw = RawSamples(plan.samples_path, plan.threads)
    limits = Limits(plan.budget_s, seed=plan.seed)
    session = Session(limits, raw.write, notice, progress, taken=raw.taken)
    try:
        return session.run(cases)
    finally:
        raw.close()


def _check(plan: Plan, device: torch.device) -> None:
    if "int8" in plan.precisions and not quantises(device):
        raise InputError(
            "torch has no products of 8-bit integers for this machine",
            where="--precisions",
            got=f"int8 on {device.type}",
            hint="leave int8 out",
        )
    if plan.contention:
        check_contention(device, plan.clock)
    if Path(plan.name).name != plan.name:
        raise InputError("no name of a file", where="--name", got=repr(plan.name))
    if plan.clock == "processor" and (plan.threads > 1 or device.type != "cpu"):
        raise InputError(
            "processor time stands for the wall clock on one thread only",
            where="--clock processor",
            got=f"{plan.threads} threads on {device.type}",
        )


def _cases(bench: Bench, plan: Plan) -> list[Case]:
    if plan.role == "server":
        return server_cases(bench, plan.grid) + whole_cases(bench, plan.grid, plan.role)
    found = whole_cases(bench, plan.grid, plan.role, plan.precisions[0])
    found += device_cases(bench, plan.grid, plan.precisions)
    if plan.training and plan.precisions[0] != "int8":  # nothing trains in integers
        found += training_cases(bench, plan.grid, plan.precisions[0])
    return found


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
