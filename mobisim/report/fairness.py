"""The fairness picture: what the devices of each group make of what all of them taught."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from mobisim.errors import InputError
from mobisim.report import wording
from mobisim.report.figure import GREY, PALE, Box, page
from mobisim.report.series import Series, Style, by, others, style, unnested
from mobisim.report.sweep_table import Row, Sweep

WIDTH, LEFT, PLOT_WIDTH = 10.2, 3.9, 5.9
ROW, TOP, BELOW = 0.34, 1.0, 1.05
MAX_LINES = 6
COLUMN = "metric_of_groups[{}].{}"
NOTE = "mark: the mean of a group's devices; line: from the least to the greatest of them"


@dataclass(frozen=True)
class Spread:
    """What the devices of a group come to, over seeds."""

    mean: float
    least: float
    greatest: float


def draw_fairness(sweep: Sweep, out: Path) -> None:
    """Draw the metric of each group's devices.

    Raises:
        InputError: nothing was trained by several devices, or there are too many points.
    """
    rows = [row for row in sweep.done if row.get(COLUMN.format(0, "mean")) is not None]
    lines = by(rows, others(sweep))
    if not 0 < len(lines) <= MAX_LINES:
        raise InputError(
            "no groups of devices to compare",
            where="--kind fairness",
            expected=f"1 to {MAX_LINES} points in which several devices learn",
            got=str(len(lines)),
            hint="mobisim run fed_builtin is one",
        )
    names = _groups(rows[0])
    num_places = len(names) * len(lines)
    with page(WIDTH, TOP + num_places * ROW + BELOW) as sheet:
        metric = wording.judged_name(unnested(rows[0]))
        sheet.write(0.3, 0.2, f"{sweep.name}: {metric} by group of devices", fontsize=13)
        sheet.write(0.3, 0.52, wording.stand_in(unnested(rows[0])) or " ", color=GREY)
        axes = sheet.axes(Box(LEFT, TOP, PLOT_WIDTH, num_places * ROW))
        for number, line in enumerate(lines):
            places = [number + group * len(lines) for group in range(len(names))]
            _draw_line(axes, places, spreads(line, len(names)), style(number), line.label)
        _finish(axes, names, len(lines), metric)
        sheet.write(0.3, sheet.height - 0.3, NOTE, color=GREY, fontsize=8.5)
        sheet.save(out)


def spreads(line: Series, num_groups: int) -> list[Spread]:
    """What each group comes to: the mean over seeds, and the extremes of them all."""
    found = []
    for group in range(num_groups):
        means, least, greatest = (
            [row[COLUMN.format(group, name)] for row in line.rows]
            for name in ("mean", "least", "greatest")
        )
        found.append(Spread(fmean(means), min(least), max(greatest)))
    return found


def _groups(row: Row) -> list[str]:
    """The names of a run's groups, with the backbone that is trained on where it is its own."""
    manifest = json.loads((row["place"] / "manifest.json").read_text("utf-8"))
    return [_name(group) for group in manifest["scenario"]["devices"]]


def _name(group: dict[str, object]) -> str:
    count, backbone = group.get("count", 1), group.get("backbone")
    device = wording.group(group | {"count": 1, "link": "", "model": None}).removesuffix(" over ")
    return f"{count} {wording.TIMES} {device}" + (f", {backbone}" if backbone else "")


def _draw_line(
    axes: Axes, places: Sequence[int], found: Sequence[Spread], look: Style, label: str
) -> None:
    for place, spread in zip(places, found, strict=True):
        axes.hlines(place, spread.least, spread.greatest, color=look.colour, lw=1.6)
    axes.plot(
        [spread.mean for spread in found], places, color=look.colour, marker=look.mark, ms=7,
        ls="none", label=label or None, zorder=3,
    )  # fmt: skip


def _finish(axes: Axes, names: Sequence[str], num_lines: int, metric: str) -> None:
    axes.set_ylim(len(names) * num_lines - 0.5, -0.5)
    middle = (num_lines - 1) / 2
    axes.set_yticks([group * num_lines + middle for group in range(len(names))], names)
    for group in range(1, len(names)):
        axes.axhline(group * num_lines - 0.5, color=PALE, lw=0.8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.grid(axis="x", color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(metric)
    if num_lines > 1:
        axes.legend(frameon=False, ncols=num_lines, loc="lower right", bbox_to_anchor=(1, 1))
