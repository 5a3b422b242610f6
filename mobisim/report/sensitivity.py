"""The sensitivity picture: how long it takes against how far the devices of a fleet differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from mobisim.errors import InputError
from mobisim.report import wording
from mobisim.report.bandwidth import time_name, timed_by
from mobisim.report.figure import GREY, PALE, Box, TimeUnit, page, time_unit
from mobisim.report.series import Series, Style, by, others, style, unnested
from mobisim.report.sweep_table import Sweep, Varied

WIDTH, HEIGHT = 8.6, 5.4
PLOT = Box(0.95, 1.05, 7.3, 3.3)
NOTE = (
    "deviation of the logarithms of the devices' factors: 0.3 makes one in six devices slower than "
    "0.74 times the median"
)
OF_SEEDS = "line: the mean over the seeds; band: from the least to the greatest of them"
DEVIATIONS = ("sampled.pace", "sampled.rate")


def draw_sensitivity(sweep: Sweep, out: Path) -> None:
    """Draw time to target (the makespan, where no target is met) against a deviation.

    Raises:
        InputError: no deviation was varied, or no point came to an end.
    """
    field = deviation(sweep)
    if field is None or not sweep.done:
        raise InputError(
            "no devices that differ more and more",
            where="--kind sensitivity",
            expected="a sweep with several deviations of pace or rate",
            hint="vary one: --vary 'devices[*].sampled.pace=0,0.3,0.6'",
        )
    column = timed_by(sweep)
    lines = by(sweep.done, others(sweep, field))
    what = time_name(sweep, column)
    with page(WIDTH, HEIGHT) as sheet:
        sheet.write(0.3, 0.2, f"{sweep.name}: {what} as devices differ more", fontsize=13)
        sheet.write(0.3, 0.52, wording.stand_in(unnested(sweep.about)) or " ", color=GREY)
        axes = sheet.axes(PLOT)
        times = [row[column] for row in sweep.done if row.get(column) is not None]
        unit = time_unit(max(times))
        for number, series in enumerate(lines):
            line = [(at, [*map(unit.of, found)]) for at, found in points(series, field, column)]
            _draw_line(axes, line, style(number), series.label)
        _finish(axes, field, what, unit, named=len(lines) > 1)
        notes = [NOTE, OF_SEEDS] if len(lines[0].rows) > len(field.values) else [NOTE]
        for at, note in enumerate(notes):
            sheet.write(0.3, HEIGHT - 0.5 + 0.22 * at, note, color=GREY, fontsize=8.5)
        sheet.save(out)


def deviation(sweep: Sweep) -> Varied | None:
    """The varied field that says how far devices differ."""
    found = (f for f in sweep.varied if f.path.endswith(DEVIATIONS) and len(f.values) > 1)
    return next(found, None)


def points(series: Series, field: Varied, column: str) -> list[tuple[float, list[float]]]:
    """The deviations of a line at which every seed has a time, and these times."""
    found = []
    for group in by(series.rows, [field]):
        times = [row.get(column) for row in group.rows]
        known = [float(time) for time in times if time is not None]
        if len(known) == len(times):
            found.append((float(group.rows[0][field.path]), known))
    return sorted(found)


def _draw_line(
    axes: Axes, line: Sequence[tuple[float, list[float]]], look: Style, label: str
) -> None:
    at = [deviation for deviation, _ in line]
    axes.fill_between(
        at, [min(times) for _, times in line], [max(times) for _, times in line],
        color=look.colour, alpha=0.2, lw=0,
    )  # fmt: skip
    axes.plot(
        at, [fmean(times) for _, times in line], color=look.colour, ls=look.dashes,
        marker=look.mark, ms=5, lw=1.8, label=label, zorder=3,
    )  # fmt: skip


def _finish(axes: Axes, field: Varied, what: str, unit: TimeUnit, *, named: bool) -> None:
    axes.grid(color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"deviation of the devices' {field.name}")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{what} ({unit.name})")
    if named:
        axes.legend(frameon=False, handlelength=3.2, loc="upper left")
