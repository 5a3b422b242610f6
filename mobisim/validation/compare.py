"""A simulated and a real run of one scenario, side by side: errors, spreads, who is to blame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mobisim.report.results import SPANS_FILE, STEPS_FILE, SUMMARY, read_result
from mobisim.report.tables import read_spans
from mobisim.span import (
    DECODE,
    DOWNLOAD,
    ENCODE,
    FORWARD,
    KINDS,
    LATENCY,
    SIDE_FORWARD,
    STEP,
    TRANSFER,
    SpanColumns,
)

COMPARED = (FORWARD, ENCODE, TRANSFER, LATENCY, DECODE, SIDE_FORWARD, STEP, DOWNLOAD)
BUSY = ("device-0", "uplink-0", "server/worker-0")


@dataclass(frozen=True)
class Figures:
    """What one run comes to: seconds, and shares of the makespan."""

    kinds: dict[str, float]  # mean seconds per mini-batch
    step_s: float  # from one step's end to the next one's, in the mean
    makespan_s: float
    time_to_target_s: float | None
    busy: dict[str, float]
    losses: tuple[float, ...]
    bottleneck: str

    @classmethod
    def of(cls, place: Path) -> Figures:
        """The figures of a published result."""
        summary = read_result(place, SUMMARY)
        spans = SpanColumns.concatenate(read_spans(place / SPANS_FILE))
        steps: dict[str, list[Any]] = pq.read_table(place / STEPS_FILE).to_pydict()
        ends = steps["end"]
        return cls(
            kinds=_per_batch(spans, len(ends)),
            step_s=(ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0],
            makespan_s=summary["makespan_s"],
            time_to_target_s=summary["time_to_target_s"],
            busy={name: summary["utilisation"][name] for name in BUSY},
            losses=tuple(math.nan if loss is None else loss for loss in steps["loss"]),
            bottleneck=summary["bottleneck"],
        )


def _per_batch(spans: SpanColumns, num_steps: int) -> dict[str, float]:
    lasted = spans.end - spans.start
    seconds = {k: float(lasted[spans.kind == k].sum()) for k in COMPARED}
    # The download comes once; all else is told for each mini-batch.
    return {
        KINDS[k]: total if k == DOWNLOAD else total / num_steps
        for k, total in seconds.items()
        if total
    }


@dataclass(frozen=True)
class Line:
    """One quantity: the median of the real runs, the simulated value, and how they compare."""

    name: str
    measured: float
    simulated: float
    spread: float

    @property
    def error(self) -> float:
        """Simulated over measured, minus one."""
        return self.simulated / self.measured - 1 if self.measured else math.nan


@dataclass(frozen=True)
class Comparison:
    """All quantities of one scenario."""

    lines: tuple[Line, ...]
    busy: tuple[Line, ...]
    loss_gap: float | None  # the largest; None where nothing was learned
    bottleneck: str
    real: tuple[Figures, ...]
    simulated: Figures

    def line(self, name: str) -> Line:
        """The quantity of that name."""
        return next(line for line in self.lines if line.name == name)

    @property
    def blamed(self) -> str:
        """The kind of span that is furthest off, in seconds of a mini-batch."""
        kinds = [line for line in self.lines if line.name in KINDS and line.name != "download"]
        return max(kinds, key=lambda line: abs(line.simulated - line.measured)).name


def compare(real: Sequence[Figures], simulated: Figures) -> Comparison:
    """Repeats of a real run, and the simulated one."""
    names = [name for name in simulated.kinds if all(name in one.kinds for one in real)]
    lines = [_line(name, [r.kinds[name] for r in real], simulated.kinds[name]) for name in names]
    lines.append(_line("step time", [r.step_s for r in real], simulated.step_s))
    lines.append(_line("makespan", [r.makespan_s for r in real], simulated.makespan_s))
    reached = [r.time_to_target_s for r in (*real, simulated)]
    known = [seconds for seconds in reached if seconds is not None]
    if len(known) == len(reached):
        lines.append(_line("time to target", known[:-1], known[-1]))
    busy = [_line(name, [r.busy[name] for r in real], simulated.busy[name]) for name in BUSY]
    gaps = [abs(a - b) for r in real for a, b in zip(r.losses, simulated.losses, strict=True)]
    return Comparison(
        tuple(lines),
        tuple(busy),
        loss_gap=None if any(map(math.isnan, gaps)) else max(gaps),
        bottleneck=real[0].bottleneck,
        real=tuple(real),
        simulated=simulated,
    )


def _line(name: str, measured: Sequence[float], simulated: float) -> Line:
    median = float(np.median(measured))
    spread = (max(measured) - min(measured)) / median if median else 0.0
    return Line(name, median, simulated, spread)
