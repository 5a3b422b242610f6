"""A simulated and a real run of one scenario, side by side: errors, spreads, who is to blame."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
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
Quantity = Callable[["Figures"], float]


@dataclass(frozen=True)
class Figures:
    """What one run comes to: seconds, and shares of the makespan."""

    kinds: dict[str, float]  # mean seconds per mini-batch
    step_s: float  # from one step's end to the next one's, in the mean
    makespan_s: float
    target: float | None
    time_to_target_s: float | None
    busy: dict[str, float]
    losses: tuple[float, ...]
    bottleneck: str
    others: float = 0.0  # the share of this machine's cores that other processes took meanwhile

    @classmethod
    def of(cls, place: Path, others: float = 0.0) -> Figures:
        """The figures of a published result."""
        summary = read_result(place, SUMMARY)
        spans = SpanColumns.concatenate(read_spans(place / SPANS_FILE))
        steps: dict[str, list[Any]] = pq.read_table(place / STEPS_FILE).to_pydict()
        ends = steps["end"]
        return cls(
            kinds=_per_batch(spans, len(ends)),
            step_s=(ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0],
            makespan_s=summary["makespan_s"],
            target=summary["target"]["value"] if summary["target"] else None,
            time_to_target_s=summary["time_to_target_s"],
            busy={name: summary["utilisation"][name] for name in BUSY},
            losses=tuple(math.nan if loss is None else loss for loss in steps["loss"]),
            bottleneck=summary["bottleneck"],
            others=others,
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
    """One quantity in the mean of all pairs, and how far real runs are from one another.

    A pair is a real run and the one simulated with the profile measured right before it.
    """

    name: str
    measured: float
    simulated: float
    spread: float  # from the least to the greatest real run, as a share of their mean
    doubt: float | None  # standard error of `error`; None with one pair

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
    simulated: tuple[Figures, ...]

    def line(self, name: str) -> Line:
        """The quantity of that name."""
        return next(line for line in self.lines if line.name == name)

    @property
    def missed(self) -> tuple[int, int] | None:
        """Real and simulated runs that missed the target; None where there is none."""
        if self.real[0].target is None:
            return None
        return _missing(self.real), _missing(self.simulated)

    @property
    def others(self) -> float:
        """The greatest share of the cores that other processes took during a real run."""
        return max(one.others for one in self.real)

    @property
    def blamed(self) -> str:
        """The kind of span that is furthest off, in seconds of a mini-batch."""
        kinds = [line for line in self.lines if line.name in KINDS and line.name != "download"]
        return max(kinds, key=lambda line: abs(line.simulated - line.measured)).name


def _missing(runs: Sequence[Figures]) -> int:
    return sum(one.time_to_target_s is None for one in runs)


def compare(real: Sequence[Figures], simulated: Sequence[Figures]) -> Comparison:
    """Real runs, each with its simulated one."""
    names = [name for name in simulated[0].kinds if all(name in one.kinds for one in real)]
    lines = [_line(name, real, simulated, _kind(name)) for name in names]
    lines.append(_line("step time", real, simulated, lambda one: one.step_s))
    lines.append(_line("makespan", real, simulated, lambda one: one.makespan_s))
    if not _missing((*real, *simulated)):
        lines.append(
            _line("time to target", real, simulated, lambda one: one.time_to_target_s or math.nan)
        )
    busy = [_line(name, real, simulated, _busy(name)) for name in BUSY]
    return Comparison(
        tuple(lines),
        tuple(busy),
        loss_gap=_loss_gap(real, simulated),
        bottleneck=mode(one.bottleneck for one in real),
        real=tuple(real),
        simulated=tuple(simulated),
    )


def _kind(name: str) -> Quantity:
    return lambda one: one.kinds[name]


def _busy(name: str) -> Quantity:
    return lambda one: one.busy[name]


def _loss_gap(real: Sequence[Figures], simulated: Sequence[Figures]) -> float | None:
    gaps = [
        abs(a - b)
        for one, other in zip(real, simulated, strict=True)
        for a, b in zip(one.losses, other.losses, strict=True)
    ]
    return None if any(map(math.isnan, gaps)) else max(gaps)


def _line(name: str, real: Sequence[Figures], simulated: Sequence[Figures], of: Quantity) -> Line:
    measured, found = np.array([of(one) for one in real]), np.array([of(one) for one in simulated])
    mean = float(measured.mean())
    return Line(
        name,
        mean,
        float(found.mean()),
        float(np.ptp(measured)) / mean if mean else 0.0,
        _standard_error((found - measured) / mean) if mean else 0.0,
    )


def _standard_error(values: np.ndarray) -> float | None:
    count = len(values)
    return float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else None
