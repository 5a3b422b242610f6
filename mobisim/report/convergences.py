"""The convergence picture of many runs: the metric against simulated time, a line for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mobisim.errors import InputError
from mobisim.report import wording
from mobisim.report.figure import GREY, PALE, Box, Page, log_times, page
from mobisim.report.plots import DASHES, GOAL, Curves, read_curves
from mobisim.report.results import STEPS_FILE
from mobisim.report.series import Series, Style, by, graded, ordered, others, unnested
from mobisim.report.sweep_table import Row, Sweep

PANEL_WIDTH, PANEL_HEIGHT, GAP_X, GAP_Y = 3.6, 2.7, 0.5, 0.75
LEFT, TOP, KEY, BELOW = 0.85, 1.15, 1.7, 0.7
MAX_PANELS, MAX_LINES, COLUMNS, MARKED = 9, 16, 3, 12


def draw_convergences(sweep: Sweep, out: Path) -> None:
    """Draw the metric against simulated time: a line per bandwidth, a panel per what else varies.

    Raises:
        InputError: nothing was trained, or there are too many panels or lines to tell apart.
    """
    rows = [row for row in sweep.done if row.get("final_metric") is not None]
    along = ordered(sweep)
    panels = by(rows, others(sweep, along))
    fields = [along] if along is not None else []
    styles = _styles([series.label for series in by(rows, fields)])
    _check(len(panels), len(styles))
    columns = min(len(panels), COLUMNS)
    wide = 7.0 if columns == 1 else PANEL_WIDTH
    height = 3.4 if len(panels) == 1 else PANEL_HEIGHT
    lines = math.ceil(len(panels) / columns)
    width = LEFT + columns * wide + (columns - 1) * GAP_X + KEY
    with page(width, TOP + lines * (height + GAP_Y) - GAP_Y + BELOW) as sheet:
        _headings(sheet, sweep, rows)
        limits = _limits(rows)
        for number, panel in enumerate(panels):
            down, right = divmod(number, columns)
            box = Box(LEFT + right * (wide + GAP_X), TOP + down * (height + GAP_Y), wide, height)
            axes = sheet.axes(box)
            _draw_panel(axes, panel, by(panel.rows, fields), styles)
            _finish(axes, panel, limits, first=right == 0, last=number + columns >= len(panels))
        _key(sheet, styles, LEFT + columns * (wide + GAP_X) - GAP_X + 0.2)
        sheet.save(out)


def _check(num_panels: int, num_lines: int) -> None:
    if not num_panels:
        raise InputError("nothing was trained here", where="--kind convergence")
    for number, most, what in ((num_panels, MAX_PANELS, "panels"), (num_lines, MAX_LINES, "lines")):
        if number > most:
            raise InputError(
                f"more {what} than one picture can hold",
                where="--kind convergence",
                expected=f"at most {most}",
                got=str(number),
                hint="plot some of the points: name their folders, points/DIGEST",
            )


def _styles(labels: Sequence[str]) -> dict[str, Style]:
    return {label: graded(number, len(labels)) for number, label in enumerate(labels)}


def _headings(sheet: Page, sweep: Sweep, rows: Sequence[Row]) -> None:
    about = unnested(rows[0])
    name = wording.judged_name(about)
    sheet.write(0.3, 0.2, f"{sweep.name}: {name} against simulated time", fontsize=13)
    sheet.write(0.3, 0.52, wording.stand_in(about) or " ", color=GREY)


def _draw_panel(
    axes: Axes, panel: Series, lines: Sequence[Series], styles: dict[str, Style]
) -> None:
    for line in lines:
        for row in line.rows:  # one for each seed
            curves = _curves(row)
            look = styles[line.label]
            every = max(1, len(curves.metric) // MARKED)
            axes.plot(
                curves.metric_at[1:], curves.metric[1:], color=look.colour, ls=look.dashes,
                marker=look.mark, ms=4, markevery=every, lw=1.5,
            )  # fmt: skip
    goal = panel.rows[0].get("target.value")
    if goal is not None:
        axes.axhline(goal, color=GOAL, lw=1, ls=DASHES)


def _curves(row: Row) -> Curves:
    return read_curves(row["place"] / STEPS_FILE, unnested(row))


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """The values that all panels show, with some room; the first evaluation is that at time 0."""
    values = [value for row in rows for value in _curves(row).metric[1:].tolist()]
    values += [row["target.value"] for row in rows if row.get("target.value") is not None]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1
    return low - room, high + room


def _finish(
    axes: Axes, panel: Series, limits: tuple[float, float], *, first: bool, last: bool
) -> None:
    axes.set_xscale("log")
    axes.set_ylim(*limits)
    log_times(axes.xaxis, *axes.get_xlim())
    axes.grid(color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_title(panel.label, fontsize=9.5, loc="left")
    if first:
        axes.set_ylabel(wording.judged_name(panel.rows[0]))
    if last:
        axes.set_xlabel("simulated time")


def _key(sheet: Page, styles: dict[str, Style], left: float) -> None:
    handles = [
        Line2D([], [], color=s.colour, ls=s.dashes, marker=s.mark, ms=4, lw=1.5, label=label)
        for label, s in styles.items()
    ]
    handles.append(Line2D([], [], color=GOAL, ls=DASHES, lw=1, label="target"))
    place = (left / sheet.width, 1 - TOP / sheet.height)
    sheet.figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=place, frameon=False,
        handlelength=3.4, borderaxespad=0, labelspacing=0.7,
    )  # fmt: skip
