"""The convergence picture: the metric against simulated time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mobisim.report import wording
from mobisim.report.figure import GREY, INK, PALE, Box, Page, TimeUnit, page, time_unit
from mobisim.report.timeline import draw_timeline
from mobisim.units import human_time

__all__ = ["draw_convergence", "draw_timeline"]

WIDTH, HEIGHT = 8.0, 4.75
PLOT = Box(0.85, 1.15, 6.35, 2.95)
LOSS_BINS = 40
MAX_MARKED = 40

CURVE = "#2b6cb0"
GOAL = "#a3330b"
DASHES = (0, (5, 3))
EARLY, LATE = 0.4, 0.7  # where on the time axis a target is met
LOSS = "#c4c4c4"

# Behind words that a curve may cross.
_HALO = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """What was learned when: evaluations and losses against seconds, the start included."""

    metric_at: Array
    metric: Array
    loss_at: Array
    loss: Array
    makespan_s: float


def draw_convergence(result_dir: Path, out: Path) -> bool:
    """Draw the metric against simulated time to `out`; False where nothing was trained.

    Without an evaluation there is no picture, and nothing is written.
    """
    summary = _json(result_dir / "summary.json")
    curves = read_curves(result_dir / "steps.parquet", summary)
    if not len(curves.metric):
        return False
    manifest = _json(result_dir / "manifest.json")
    with page(WIDTH, HEIGHT) as sheet:
        _headings(sheet, summary, manifest)
        unit = time_unit(curves.makespan_s)
        axes = sheet.axes(PLOT)
        _draw_loss(axes, curves, unit)
        _draw_metric(axes, curves, unit, summary)
        _draw_target(axes, unit, summary)
        sheet.save(out)
    return True


def read_curves(steps: Path, summary: dict[str, Any]) -> Curves:
    """The curves of a table of steps."""
    table = pq.read_table(steps, columns=["end", "loss", "metric"])
    end, loss, metric = (_floats(table.column(name)) for name in ("end", "loss", "metric"))
    evaluated, trained = ~np.isnan(metric), ~np.isnan(loss)
    start = summary.get("initial_metric")
    before: list[float] = [] if start is None else [start]
    return Curves(
        metric_at=np.concatenate([np.zeros(len(before)), end[evaluated]]),
        metric=np.concatenate([np.array(before, np.float64), metric[evaluated]]),
        loss_at=binned(end[trained]),
        loss=binned(loss[trained]),
        makespan_s=summary.get("makespan_s") or float(end.max(initial=0.0)) or 1.0,
    )


def binned(values: Array) -> Array:
    """The means of at most LOSS_BINS neighbouring groups of `values`."""
    return np.array([part.mean() for part in np.array_split(values, LOSS_BINS) if len(part)])


def _floats(column: Any) -> Array:
    return np.asarray(column.to_numpy(), np.float64)


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def _headings(sheet: Page, summary: dict[str, Any], manifest: dict[str, Any]) -> None:
    name = wording.judged_name(summary)
    sheet.write(0.3, 0.2, f"{summary['name']}: {name} against simulated time", fontsize=13)
    sheet.write(0.3, 0.52, wording.setup(manifest["scenario"]), color=GREY)
    replaced = wording.stand_in(summary)
    if replaced:
        sheet.write(0.3, 0.75, replaced, color=GOAL)


def _draw_metric(axes: Axes, curves: Curves, unit: TimeUnit, summary: dict[str, Any]) -> None:
    few = len(curves.metric) <= MAX_MARKED
    times = curves.metric_at / unit.seconds
    mark = "o" if few else ""
    axes.plot(times, curves.metric, color=CURVE, lw=2, marker=mark, ms=4.5, clip_on=False)
    axes.set_xlim(0, unit.of(curves.makespan_s) * 1.02)
    axes.set_ylim(*_limits(curves.metric, summary))
    axes.set_xlabel(f"simulated time ({unit.name})")
    axes.set_ylabel(wording.judged_name(summary), color=CURVE)
    axes.grid(axis="y", color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    _label_last(axes, times[-1], curves.metric, summary)


def _label_last(axes: Axes, at: float, metric: Array, summary: dict[str, Any]) -> None:
    """Write the last value on the side of its point that is away from the target line."""
    goal = summary.get("target")
    above = metric[-1] >= (goal["value"] if goal else metric[0])
    axes.annotate(
        f"{metric[-1]:.3g}",
        (at, metric[-1]),
        xytext=(4, 8 if above else -8),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        color=CURVE,
        fontweight="bold",
        bbox=_HALO,
    )


def _limits(metric: Array, summary: dict[str, Any]) -> tuple[float, float]:
    goal = summary.get("target")
    values = [*metric.tolist(), *([goal["value"]] if goal else [])]
    room = 0.12 * (max(values) - min(values)) or 0.1
    return min(values) - room, max(values) + room


def _draw_loss(axes: Axes, curves: Curves, unit: TimeUnit) -> None:
    if len(curves.loss) <= 1:
        return
    right = axes.twinx()
    # The metric is the answer: its axes must lie above those of the loss.
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    right.plot(curves.loss_at / unit.seconds, curves.loss, color=LOSS, lw=1)
    right.set_ylabel("training loss", color=GREY)
    right.set_ylim(0, float(curves.loss.max()) * 1.1 or 1.0)
    right.tick_params(axis="y", colors=GREY, labelcolor=GREY)


def _draw_target(axes: Axes, unit: TimeUnit, summary: dict[str, Any]) -> None:
    goal, reached = summary.get("target"), summary.get("time_to_target_s")
    if not goal:
        return
    falling = (summary.get("initial_metric") or 0.0) > goal["value"]
    missed = "" if reached is not None else " (not met)"
    share = 1.0 if reached is None else unit.of(reached) / axes.get_xlim()[1]
    axes.axhline(goal["value"], color=GOAL, lw=1, ls=DASHES)
    _label_target(axes, f"target {goal['value']:g}{missed}", goal["value"], share, falling=falling)
    if reached is not None:
        axes.axvline(unit.of(reached), color=GOAL, lw=1, ls=DASHES)
        _label_reached(axes, f"reached after {human_time(reached)}", share, falling=falling)


def _label_target(axes: Axes, text: str, value: float, share: float, *, falling: bool) -> None:
    """Name the target at the end of its line that the curve leaves free.

    The curve comes from below the line (from above where it falls) and crosses it at `share` of
    the axis.
    """
    early = share < EARLY
    above = falling if early else not falling
    axes.annotate(
        text,
        (1 if early else 0, value),
        xycoords=("axes fraction", "data"),
        xytext=(-5 if early else 5, 6 if above else -6),
        textcoords="offset points",
        ha="right" if early else "left",
        va="bottom" if above else "top",
        color=GOAL,
        bbox=_HALO,
    )


def _label_reached(axes: Axes, text: str, share: float, *, falling: bool) -> None:
    """Name the time to target beside its line, away from the curve."""
    late = share > LATE
    edge = 0.93 if falling else 0.07
    axes.annotate(
        text,
        (share, edge if late else 0.5),
        xycoords="axes fraction",
        xytext=(-6 if late else 6, 0),
        textcoords="offset points",
        ha="right" if late else "left",
        va="center",
        color=INK,
        bbox=_HALO,
    )
