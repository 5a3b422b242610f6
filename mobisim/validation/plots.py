"""Pictures of a validation: one scenario's runs side by side, and a suite's errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mobisim.validation.compare import Comparison
from mobisim.validation.suite import line_of

REAL, SIMULATED = "#4477aa", "#ee6677"
GROUPS = {"device": "#4477aa", "uplink": "#ee7733", "server": "#228833"}
NAMES = {"device": "device", "uplink": "link", "server": "server"}
DPI = 130


def draw_comparison(found: Comparison, path: Path) -> None:
    """Seconds of each kind of span, utilisation, and the losses of both, beside each other."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    kinds, busy, losses = figure.subplots(1, 3)
    lines = [line for line in found.lines if line.name not in ("makespan", "time to target")]
    _bars(kinds, [line.name for line in lines], lines)
    kinds.set_yscale("log")
    kinds.set_ylabel("seconds per mini-batch")
    _bars(busy, [line.name for line in found.busy], found.busy)
    busy.set_ylabel("share of the makespan at work")
    busy.set_ylim(0, 1.25)  # room for the legend
    _losses(losses, found)
    figure.suptitle("The same scenario, for real and simulated")
    figure.savefig(path, dpi=DPI)


def _bars(axes: Any, names: Sequence[str], lines: Sequence[Any]) -> None:
    places = np.arange(len(lines))
    low, high = places - 0.2, places + 0.2
    spread = [line.spread * line.measured / 2 for line in lines]
    measured = [line.measured for line in lines]
    axes.bar(low, measured, 0.38, color=REAL, yerr=spread, label="real (and spread)")
    axes.bar(high, [line.simulated for line in lines], 0.38, color=SIMULATED, label="simulated")
    axes.set_xticks(places, names, rotation=35, ha="right")
    axes.legend(frameon=False, fontsize=8)
    _calm(axes)


def _losses(axes: Any, found: Comparison) -> None:
    for number, one in enumerate(found.real):
        label = None if number else "real"
        axes.plot(one.losses, color=REAL, linewidth=3, alpha=0.5, label=label)
    axes.plot(found.simulated[0].losses, color=SIMULATED, linewidth=1, label="simulated")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=8)
    _calm(axes)


def draw_suite(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Simulated against real step times, and each error beside the spread of repeats."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    times, errors = figure.subplots(1, 2)
    _draw_times(times, rows)
    _draw_errors(errors, sorted(rows, key=lambda row: (row["bottleneck"], row["name"])))
    for axes in (times, errors):
        axes.legend(frameon=False, fontsize=8)
        _calm(axes)
    figure.suptitle("How far simulated steps are from real ones")
    figure.savefig(path, dpi=DPI)


def _draw_times(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    for group, colour in GROUPS.items():
        mine = [line_of(row, "step time") for row in rows if row["bottleneck"] == group]
        label = f"paced by the {NAMES[group]}"
        real = [line["measured"] for line in mine]
        axes.scatter(real, [line["simulated"] for line in mine], color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="real seconds per step")
    axes.set_ylabel("simulated seconds per step")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    steps = [line_of(row, "step time")["measured"] for row in rows]
    reach = np.array([min(steps) / 1.2, max(steps) * 1.2])
    axes.plot(reach, reach, color="grey", linewidth=0.8, zorder=0)


def _draw_errors(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """The error of each configuration's mean, over how far single real runs lie from theirs."""
    lines = [line_of(row, "step time") for row in rows]
    colours = [GROUPS.get(row["bottleneck"], "grey") for row in rows]
    doubts = [(line["doubt"] or 0) * 100 for line in lines]
    axes.bar(range(len(rows)), [line["error"] * 100 for line in lines], yerr=doubts,
             color=colours, width=0.6, capsize=3,
             error_kw={"linewidth": 1, "label": "standard error"})  # fmt: skip
    away = [
        (place, (one["step_s"] / line["measured"] - 1) * 100)
        for place, (row, line) in enumerate(zip(rows, lines, strict=True))
        for one in row["real"]
    ]
    axes.scatter(*zip(*away, strict=True), color="grey", alpha=0.4, s=12, linewidths=0,
                 zorder=0, label="a real run, from their mean")  # fmt: skip
    for bound in (-3, 3):
        axes.axhline(bound, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=60, ha="right")
    axes.set_ylabel("error of the step time, %")


def _calm(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
