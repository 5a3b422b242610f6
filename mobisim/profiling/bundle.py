"""The files of a profile: raw samples as they come, then one bundle of text to review and share."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import torch

from mobisim.errors import InputError
from mobisim.profiling.blocks import processor_kernels
from mobisim.profiling.cases import Case, Grid, Laps, Role
from mobisim.profiling.measure import Taken
from mobisim.profiling.statistics import quantile
from mobisim.profiling.stopwatch import Timed
from mobisim.scenario.profiles import BUNDLE_VERSION, Contention, FitError, Spreads
from mobisim.scenario.quantities import Strict
from mobisim.scenario.samples import HEADER, Sample

RAW_HEADER = "case,repeat,operator,batch,length,width,width_out,precision,threads,seconds"
DIGITS = 6


class RawSamples:
    """The file of single samples: each is written when it was taken, so that a re-run goes on."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        self.taken = _read_raw(path, threads) if path.exists() else {}
        self._counts = {case: len(laps) for case, laps in self.taken.items()}
        self._file: TextIO | None = None

    def write(self, case: Case, laps: Laps) -> None:
        """Append one sample of a case."""
        if self._file is None:
            fresh = not self.path.exists()
            self._file = self.path.open("a", encoding="utf-8")
            self._file.write(f"{RAW_HEADER}\n" if fresh else "")
        repeat = self._counts[case.name] = self._counts.get(case.name, 0) + 1
        for timed, seconds in laps.items():
            cells = (case.name, repeat, *timed, self.threads, repr(seconds))
            self._file.write(",".join(map(str, cells)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _read_raw(path: Path, threads: int) -> Taken:
    """Samples of an earlier measurement; a last line cut off in the middle is left out.

    Raises:
        InputError: a file of another make, or with a line that no measurement writes.
    """
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    header, *lines = whole.split("\n")
    if header != RAW_HEADER:
        raise InputError(
            "these are not samples to go on from",
            where=f"{path}:1",
            expected=RAW_HEADER,
            got=header[:120],
            hint="move the file away, or choose another --name",
        )
    found: dict[tuple[str, str], Laps] = {}
    for number, line in enumerate(lines, start=2):
        case, repeat, timed, seconds = _raw_line(line, threads, f"{path}:{number}")
        found.setdefault((case, repeat), {})[timed] = seconds
    taken: Taken = {}
    for (case, _repeat), laps in found.items():
        taken.setdefault(case, []).append(laps)
    return taken


def _raw_line(line: str, threads: int, where: str) -> tuple[str, str, Timed, float]:
    try:
        case, repeat, operator, *sizes, precision, with_threads, seconds = line.split(",")
        batch, length, width, width_out = map(int, sizes)
        fits = int(with_threads) == threads and float(seconds) > 0
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            "a sample that does not belong here",
            where=where,
            expected=f"{RAW_HEADER}, with {threads} threads and seconds above zero",
            got=line[:120],
            hint="move the file away, or choose another --name",
        )
    timed = Timed(operator, batch, length, width, width_out, precision)
    return case, repeat, timed, float(seconds)


def summarise(taken: Taken, threads: int) -> list[Sample]:
    """Median and percentiles of each operator at each shape, over all cases that ran it."""
    seconds: dict[Timed, list[float]] = {}
    for repeats in taken.values():
        for laps in repeats:
            for timed, lap in laps.items():
                seconds.setdefault(timed, []).append(lap)
    return [_sample(timed, laps, threads) for timed, laps in sorted(seconds.items())]


def _sample(timed: Timed, laps: list[float], threads: int) -> Sample:
    p10, median, p90 = (float(f"{quantile(laps, q):.{DIGITS}g}") for q in (0.1, 0.5, 0.9))
    shape = timed.batch, timed.length, timed.width, timed.width_out
    return Sample(timed.operator, *shape, timed.precision, threads, median, p10, p90, len(laps))


@dataclass(frozen=True)
class About:
    """What a bundle says of its measurement, beside the samples."""

    name: str
    role: Role
    device: torch.device
    threads: int
    precision: str
    grid: Grid
    method: str


@dataclass(frozen=True)
class Found:
    """What was measured: operators, and what follows from single samples."""

    samples: list[Sample]
    fit_error: FitError | None = None
    spread: Spreads | None = None
    contention: Contention | None = None


def write_bundle(folder: Path, about: About, found: Found) -> Path:
    """Write NAME.csv, then NAME.yaml beside it; the path of the latter."""
    table = [HEADER, *(",".join(map(str, sample)) for sample in found.samples)]
    (folder / f"{about.name}.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    path = folder / f"{about.name}.yaml"
    lines = [*_head(about), *_numbers(about, found)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _head(about: About) -> Iterator[str]:
    machine = machine_name(about.device)
    yield f"# Measured by `mobisim profile`: medians of {about.role} operators, see samples."
    yield f"name: {about.name}"
    threads = f"{about.threads} thread{'s' * (about.threads > 1)}"
    yield f"description: {json.dumps(f'{machine}, {threads}, measured')}"
    yield "kind: measured"
    yield f"version: {BUNDLE_VERSION}"
    yield f"role: {about.role}"
    yield f"precision: {{value: {about.precision}, source: measured}}"
    yield f"threads: {about.threads}"
    yield f"machine: {json.dumps(machine)}"
    yield f"accelerator: {about.device.type}"
    software = ", ".join(f"{name}: '{number}'" for name, number in _software().items())
    yield f"software: {{{software}}}"
    yield f"date: '{datetime.now(UTC).date()}'"
    yield f"method: {json.dumps(about.method)}"


def _numbers(about: About, found: Found) -> Iterator[str]:
    grid, samples = about.grid, found.samples
    yield (
        f"grid: batch {list(grid.batches)}, length {list(grid.lengths)}, width {list(grid.widths)}"
    ).replace("grid: ", 'grid: "') + '"'
    tokens = [sample.batch * sample.length for sample in samples if sample.length > 1]
    ranges = {
        "num_tokens": [min(tokens), max(tokens)],
        "length": [min(grid.lengths), max(grid.lengths)],
        "width": [min(grid.widths), max(grid.widths)],
    }
    yield f"ranges: {json.dumps(ranges)}".replace('"', "")
    for key in ("fit_error", "spread", "contention"):
        part: Strict | None = getattr(found, key)
        if part is not None:
            yield f"{key}: {json.dumps(part.model_dump(exclude_none=True))}"
    memory = memory_bytes(about.device)
    if memory:
        yield f"memory: {{value: {memory / 2**20:.0f} MiB, source: measured}}"
    yield f"num_samples: {len(samples)}"
    yield f"samples: {about.name}.csv"


def _software() -> dict[str, str]:
    return {
        "mobisim": version("mobisim"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def machine_name(device: torch.device) -> str:
    """The accelerator's name; or the processor's, its cores and the instructions that torch uses.

    The machine's own name is left out.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores, {processor_kernels()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines: Iterable[str] = info.read_text("utf-8").split("\n") if info.exists() else ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory_bytes(device: torch.device) -> int:
    """Memory of the accelerator, or of the machine; 0 where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
