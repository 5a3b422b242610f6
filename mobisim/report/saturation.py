"""The saturation picture: how busy the server is and who waits as the fleet grows, and the knee."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, PercentFormatter

from mobisim.errors import InputError
from mobisim.report import wording
from mobisim.report.figure import GREY, PALE, Box, Page, page, time_unit
from mobisim.report.series import Series, Style, by, others, style
from mobisim.report.sweep_table import Row, Sweep, Varied

WIDTH, HEIGHT = 8.6, 6.9
LEFT, PLOT_WIDTH = 0.95, 7.3
BUSY, WAITS = Box(LEFT, 1.0, PLOT_WIDTH, 2.35), Box(LEFT, 3.65, PLOT_WIDTH, 2.35)
NOTE = (
    "knee: the fleet whose devices, each as fast as in the smallest one, make as many mini-batches "
    "as the server can step"
)
SPACING = 1 / 16  # of the axis between two sizes that are written at it
LOG_FROM = 5  # a largest fleet so many times the smallest


@dataclass(frozen=True)
class Spot:
    """One size of the fleet, means over seeds: `waits` seconds in line a mini-batch."""

    num_devices: int
    steps_per_s: float
    busy: float
    waits: float


def draw_saturation(sweep: Sweep, out: Path) -> None:
    """Draw the server's utilisation, and what a mini-batch waits, against the number of devices.

    Raises:
        InputError: no number of devices was varied, or no point came to an end.
    """
    field = fleet_size(sweep)
    if field is None or not sweep.done:
        raise InputError(
            "no fleet that grows",
            where="--kind saturation",
            expected="a sweep with several numbers of devices",
            hint="vary one: --vary 'devices[0].count=10,20,50,100'",
        )
    lines = [(one, spots(one)) for one in by(sweep.done, others(sweep, field))]
    with page(WIDTH, HEIGHT) as sheet:
        sheet.write(0.3, 0.2, f"{sweep.name}: the server as the fleet grows", fontsize=13)
        sheet.write(0.3, 0.52, _server(sweep), color=GREY)
        _draw(sheet, lines)
        sheet.write(0.3, HEIGHT - 0.3, NOTE, color=GREY, fontsize=8.5)
        sheet.save(out)


def fleet_size(sweep: Sweep) -> Varied | None:
    """The varied field that is a number of devices."""
    found = (f for f in sweep.varied if f.path.endswith(".count") and len(f.values) > 1)
    return next(found, None)


def spots(series: Series) -> list[Spot]:
    """The sizes of a line, from small to large."""
    sizes: dict[int, list[Row]] = {}
    for row in series.rows:
        sizes.setdefault(_num_devices(row), []).append(row)
    return [_spot(size, sizes[size]) for size in sorted(sizes)]


def _spot(num_devices: int, rows: Sequence[Row]) -> Spot:
    return Spot(
        num_devices,
        fmean((row.get("num_learned") or row["num_steps"]) / row["makespan_s"] for row in rows),
        fmean(row["utilisation.server"] for row in rows),
        fmean(row["step_breakdown_s.server_queue"] for row in rows),
    )


def _scenario(row: Row) -> dict[str, object]:
    manifest = json.loads((row["place"] / "manifest.json").read_text("utf-8"))
    return dict(manifest["scenario"])


def _num_devices(row: Row) -> int:
    groups = _scenario(row)["devices"]
    assert isinstance(groups, list)
    return sum(group.get("count", 1) for group in groups)


def _server(sweep: Sweep) -> str:
    return wording.setup(_scenario(sweep.rows[0])).rpartition(" · ")[2]


def knee(line: Sequence[Spot]) -> float | None:
    """At how many devices the server cannot keep up; None where it is not busy at all.

    Where the line of as many times as much work from as many times as many devices meets the
    server's capacity, which is what it steps at its busiest over how busy it is.
    """
    first, busiest = line[0], max(line, key=lambda spot: spot.busy)
    if not busiest.busy or not first.steps_per_s:
        return None
    return busiest.steps_per_s / busiest.busy * first.num_devices / first.steps_per_s


def _draw(sheet: Page, lines: Sequence[tuple[Series, list[Spot]]]) -> None:
    busy, waits = sheet.axes(BUSY), sheet.axes(WAITS)
    longest = max(spot.waits for _, line in lines for spot in line)
    unit = time_unit(longest or 1.0)
    for number, (series, line) in enumerate(lines):
        look, sizes = style(number), [spot.num_devices for spot in line]
        _plot(busy, sizes, [spot.busy for spot in line], look, _name(series, line))
        _plot(waits, sizes, [unit.of(spot.waits) for spot in line], look, None)
        found = knee(line)
        if found is not None and sizes[0] <= found <= sizes[-1]:
            for axes in (busy, waits):
                axes.axvline(found, color=look.colour, lw=1, ls=(0, (1, 2)))
    every = sorted({spot.num_devices for _, line in lines for spot in line})
    busy.set_ylim(0, 1.05)
    busy.yaxis.set_major_formatter(PercentFormatter(1.0))
    busy.set_ylabel("server busy")
    waits.set_ylim(bottom=0)
    waits.set_ylabel(f"a mini-batch in line ({unit.name})")
    waits.set_xlabel("devices")
    for axes in (busy, waits):
        _finish(axes, every)
    busy.legend(frameon=False, handlelength=3.2, loc="upper left")


def _name(series: Series, line: Sequence[Spot]) -> str:
    found = knee(line)
    verdict = "never busy" if found is None else f"knee at {found:,.0f} devices"
    return ": ".join([*([series.label] if series.label else []), verdict])


def _plot(
    axes: Axes, sizes: Sequence[int], values: Sequence[float], look: Style, label: str | None
) -> None:
    axes.plot(
        sizes, values, color=look.colour, ls=look.dashes, marker=look.mark, ms=5, lw=1.8,
        label=label, zorder=3,
    )  # fmt: skip


def _finish(axes: Axes, sizes: Sequence[int]) -> None:
    scale = "log" if sizes[-1] >= LOG_FROM * sizes[0] else "linear"
    axes.set_xscale(scale)
    ticks = _apart(sizes, scale)
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=PALE, lw=0.6)
    axes.set_axisbelow(True)


def _apart(sizes: Sequence[int], scale: str) -> list[int]:
    """Of the sizes as many as can be written at the axis, the largest always."""
    place = math.log if scale == "log" else float
    least = (place(sizes[-1]) - place(sizes[0])) * SPACING
    found = [sizes[-1]]
    for size in reversed(sizes):
        if place(found[0]) - place(size) >= least:
            found.insert(0, size)
    return found
