"""The bandwidth picture: time to target against bandwidth, and where the bottleneck changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from mobisim.errors import InputError
from mobisim.report import wording
from mobisim.report.figure import GREY, INK, PALE, Box, log_times, page
from mobisim.report.series import Series, Style, bandwidth, by, others, style, unnested
from mobisim.report.sweep_table import Row, Sweep, Varied
from mobisim.units import human_rate

WIDTH, HEIGHT = 8.6, 5.4
PLOT = Box(0.95, 1.05, 7.3, 3.55)
MAX_TICKS = 12


@dataclass(frozen=True)
class Spot:
    """One bandwidth of a line: mean, least and most over seeds, and who is busy how long."""

    rate: float
    mean: float
    least: float
    most: float
    uplink_s: float
    compute_s: float
    bottleneck: str


@dataclass(frozen=True)
class Crossing:
    """Where the bottleneck changes hands between two bandwidths."""

    rate: float
    time: float
    before: str
    after: str


def draw_bandwidth(sweep: Sweep, out: Path) -> None:
    """Draw time to target (the makespan, where no target is met) against bandwidth.

    Raises:
        InputError: no rate was varied, or no point came to an end.
    """
    field = bandwidth(sweep)
    if field is None or not sweep.done:
        raise InputError(
            "no bandwidth to draw along",
            where="--kind bandwidth",
            expected="a sweep with several values of a rate",
            hint="vary one: --vary 'devices[*].link.uplink=1,5,20 Mbit/s'",
        )
    column = timed_by(sweep)
    lines = by(sweep.done, others(sweep, field))
    with page(WIDTH, HEIGHT) as sheet:
        what = time_name(sweep, column)
        sheet.write(0.3, 0.2, f"{sweep.name}: {what} against bandwidth", fontsize=13)
        replaced = wording.stand_in(unnested(sweep.about))
        sheet.write(0.3, 0.52, replaced or " ", color=GREY)
        axes = sheet.axes(PLOT)
        missed = list(_draw_lines(axes, lines, field, column))
        _scales(axes, field, what)
        sheet.write(0.3, HEIGHT - 0.3, "; ".join(missed), color=GREY, fontsize=8.5)
        sheet.save(out)


def timed_by(sweep: Sweep) -> str:
    """The column of times: to the target where any point met it, else the makespan."""
    met = any(row.get("time_to_target_s") is not None for row in sweep.done)
    return "time_to_target_s" if met else "makespan_s"


def time_name(sweep: Sweep, column: str) -> str:
    """What a column of times says."""
    if column == "makespan_s":
        return "makespan"
    return f"time to {wording.judged_name(sweep.about)} {sweep.about['target.value']:g}"


def spots(series: Series, field: Varied, column: str) -> list[Spot]:
    """The bandwidths of a line at which every seed has a time, from low to high."""
    found = []
    for group in by(series.rows, [field]):
        times = [row.get(column) for row in group.rows]
        known = [time for time in times if time is not None]
        if len(known) == len(times):
            found.append(_spot(group.rows, field, known))
    return sorted(found, key=lambda spot: spot.rate)


def _spot(rows: Sequence[Row], field: Varied, times: Sequence[float]) -> Spot:
    first = rows[0]
    return Spot(
        rate=first[field.path],
        mean=sum(times) / len(times),
        least=min(times),
        most=max(times),
        uplink_s=_busy(first, "uplink"),
        compute_s=max(_busy(first, "device"), _busy(first, "server")),
        bottleneck=str(first["bottleneck"]),
    )


def _busy(row: Row, part: str) -> float:
    return (row.get(f"utilisation.{part}") or 0.0) * float(row["makespan_s"])


def crossings(line: Sequence[Spot]) -> list[Crossing]:
    """Where the bottleneck of a line changes hands.

    Between two bandwidths the uplink's time is a power of the bandwidth, and so is the time to
    target: where the uplink is as busy as whoever computes, one hands over to the other.
    """
    return [
        _crossing(low, high) for low, high in pairwise(line) if low.bottleneck != high.bottleneck
    ]


def _crossing(low: Spot, high: Spot) -> Crossing:
    share = 0.5
    if min(low.uplink_s, low.compute_s, high.uplink_s, high.compute_s) > 0:
        before, after = (math.log(s.uplink_s / s.compute_s) for s in (low, high))
        if before > 0 > after:
            share = before / (before - after)
    rate = low.rate * (high.rate / low.rate) ** share
    # Up to the crossing the uplink alone sets the time; from there on it is that of the right.
    time = max(low.mean * low.rate / rate, high.mean)
    return Crossing(rate, time, low.bottleneck, high.bottleneck)


def floor(line: Sequence[Spot]) -> float:
    """The time that would remain with a link of no end: what the busiest of the others needs."""
    best = line[-1]
    return best.mean * min(1.0, best.compute_s / max(best.compute_s, best.uplink_s))


def _draw_lines(axes: Axes, lines: Sequence[Series], field: Varied, column: str) -> Iterator[str]:
    """Draw each line; say of which there is none, or not everywhere."""
    floors: list[tuple[float, Style]] = []
    for number, series in enumerate(lines):
        line = spots(series, field, column)
        name = series.label or "all points"
        rates = {row[field.path] for row in series.rows}
        if len(line) < len(rates):
            where = "" if not line else f" at {len(rates) - len(line)} of {len(rates)} bandwidths"
            yield f"{name}: target not met{where}"
        if line:
            look = style(number)
            _draw_line(axes, line, look, _name(series, line))
            floors.append((floor(line), look))
    _draw_floors(axes, floors)
    if floors:
        axes.legend(frameon=False, handlelength=3.2, loc="upper right")


def _draw_line(axes: Axes, line: Sequence[Spot], look: Style, name: str) -> None:
    rates = [spot.rate for spot in line]
    axes.fill_between(
        rates, [s.least for s in line], [s.most for s in line], color=look.colour, alpha=0.2, lw=0
    )
    knees = [(crossing.rate, crossing.time) for crossing in crossings(line)]
    path = sorted([*((spot.rate, spot.mean) for spot in line), *knees])
    axes.plot(
        *zip(*path, strict=True), color=look.colour, ls=look.dashes, marker=look.mark, ms=5,
        markevery=[at not in knees for at in path], lw=1.8, label=name, zorder=3,
    )  # fmt: skip
    for at in knees:
        axes.plot(*at, "o", ms=10, mfc="none", mec=INK, mew=1.2, zorder=4)


def _name(series: Series, line: Sequence[Spot]) -> str:
    """What the key says of a line: who sets the pace from where on."""
    found = [f"{c.after} sets the pace from {human_rate(c.rate)}" for c in crossings(line)]
    found = found or [f"{line[0].bottleneck} sets the pace"]
    return ": ".join([*([series.label] if series.label else []), ", ".join(found)])


def _draw_floors(axes: Axes, floors: Sequence[tuple[float, Style]]) -> None:
    for value, look in floors:
        axes.axhline(value, color=look.colour, lw=0.9, ls=(0, (1, 2.5)))
    if floors:
        lowest = min(value for value, _ in floors)
        axes.annotate(
            "compute floor", (0, lowest), xycoords=("axes fraction", "data"),
            xytext=(5, -4), textcoords="offset points", va="top", color=GREY, fontsize=8.5,
        )  # fmt: skip


def _round_ones(rates: Sequence[float]) -> list[float]:
    """The bandwidths to write at the axis: all, or of many the round ones between them."""
    if len(rates) <= MAX_TICKS:
        return list(rates)
    powers = range(math.floor(math.log10(rates[0])), math.ceil(math.log10(rates[-1])) + 1)
    rounded = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [rate for rate in rounded if rates[0] <= rate <= rates[-1]]


def _scales(axes: Axes, field: Varied, what: str) -> None:
    axes.set_xscale("log")
    rates = _round_ones(sorted(field.values))
    axes.set_xticks(rates, [f"{rate / 1e6:g}" for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.35, high * 1.1)
    log_times(axes.yaxis, *axes.get_ylim())
    axes.grid(color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{field.name} (Mbit/s)")
    axes.set_ylabel(what)
