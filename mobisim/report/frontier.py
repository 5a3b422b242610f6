"""The frontier picture: final quality against time to target, and who is beaten by nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from mobisim.errors import InputError
from mobisim.report import wording
from mobisim.report.figure import GREY, PALE, Box, log_times, page
from mobisim.report.series import Series, by, ordered, others, style, unnested
from mobisim.report.sweep_table import Row, Sweep
from mobisim.scenario.schema import LOWER_IS_BETTER

WIDTH, HEIGHT = 8.6, 5.4
PLOT = Box(0.95, 1.05, 6.2, 3.55)


@dataclass(frozen=True)
class Mark:
    """One way to train: its quality and how long it takes, means and ranges over seeds."""

    label: str
    time: float
    quality: float
    times: tuple[float, float]
    qualities: tuple[float, float]
    met: bool


def draw_frontier(sweep: Sweep, out: Path) -> None:
    """Draw final quality against time to target; what misses the target stands at its makespan.

    Raises:
        InputError: nothing was trained.
    """
    rows = [row for row in sweep.done if row.get("final_metric") is not None]
    if not rows:
        raise InputError("nothing was trained here", where="--kind frontier")
    lines = _lines(sweep, rows)
    about = unnested(rows[0])
    quality = wording.metric_name(about)
    with page(WIDTH, HEIGHT) as sheet:
        goal = rows[0].get("target.value")
        what = "makespan" if goal is None else f"time to {quality} {goal:g}"
        sheet.write(0.3, 0.2, f"{sweep.name}: final {quality} against {what}", fontsize=13)
        sheet.write(0.3, 0.52, wording.stand_in(about) or " ", color=GREY)
        axes = sheet.axes(PLOT)
        better = -1 if about["metric_name"] in LOWER_IS_BETTER else 1
        _draw_frontiers(axes, [(label, frontier(marks, better)) for label, marks in lines])
        _draw_marks(axes, [mark for _, marks in lines for mark in marks])
        _finish(axes, what, f"final {quality}")
        if goal is not None and not all(mark.met for _, marks in lines for mark in marks):
            note = "hollow: target not met, shown at the end of the run"
            sheet.write(0.3, HEIGHT - 0.3, note, color=GREY, fontsize=8.5)
        sheet.save(out)


def _lines(sweep: Sweep, rows: Sequence[Row]) -> list[tuple[str, list[Mark]]]:
    """A frontier for each value of what is in order; its marks are what else varies."""
    along = ordered(sweep)
    rest = others(sweep, along)
    if not rest:  # what varies is all there is to choose from
        return [("", [_mark(group) for group in by(rows, [along] if along else [])])]
    fields = [along] if along else []
    return [(s.label, [_mark(g) for g in by(s.rows, rest)]) for s in by(rows, fields)]


def _mark(group: Series) -> Mark:
    target = [row.get("time_to_target_s") for row in group.rows]
    known = [time for time in target if time is not None]
    met = len(known) == len(target)
    times = known if met else [float(row["makespan_s"]) for row in group.rows]
    qualities = [float(row["final_metric"]) for row in group.rows]
    return Mark(
        group.label,
        fmean(times),
        fmean(qualities),
        (min(times), max(times)),
        (min(qualities), max(qualities)),
        met or group.rows[0].get("target.value") is None,
    )


def frontier(marks: Sequence[Mark], better: int = 1) -> list[Mark]:
    """The marks that no other beats in both time and quality, from the fastest on."""
    found: list[Mark] = []
    for mark in sorted(marks, key=lambda m: (m.time, -better * m.quality)):
        if mark.met and (not found or better * mark.quality > better * found[-1].quality):
            found.append(mark)
    return found


def _draw_frontiers(axes: Axes, found: Sequence[tuple[str, Sequence[Mark]]]) -> None:
    """Draw each frontier, and name it at its best end, along with those that end there, too."""
    named: dict[tuple[float, float], list[str]] = {}
    for label, best in found:
        times, qualities = [m.time for m in best], [m.quality for m in best]
        axes.plot(times, qualities, color=GREY, ls=(0, (1, 1.5)), lw=1)
        if best and label:
            near = (round(math.log(times[-1]), 1), qualities[-1])
            named.setdefault(near, []).append(label)
    for (time, quality), labels in named.items():
        axes.annotate(
            ", ".join(labels), (math.exp(time), quality), xytext=(2, 8),
            textcoords="offset points", fontsize=8, color=GREY, rotation=35, rotation_mode="anchor",
        )  # fmt: skip


def _draw_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    labels = list(dict.fromkeys(mark.label for mark in marks))
    styles = {label: style(number) for number, label in enumerate(labels)}
    for label, look in styles.items():
        axes.plot([], [], color=look.colour, marker=look.mark, ms=7, ls="none", label=label)
    for mark in marks:
        look = styles[mark.label]
        axes.errorbar(
            mark.time, mark.quality,
            xerr=[[mark.time - mark.times[0]], [mark.times[1] - mark.time]],
            yerr=[[mark.quality - mark.qualities[0]], [mark.qualities[1] - mark.quality]],
            color=look.colour, marker=look.mark, ms=7, mfc=look.colour if mark.met else "white",
            elinewidth=0.8, ls="none", zorder=3,
        )  # fmt: skip


def _finish(axes: Axes, what: str, quality: str) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    log_times(axes.xaxis, *axes.get_xlim())
    axes.grid(color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(what)
    axes.set_ylabel(quality)
    axes.legend(
        frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0,
        labelspacing=0.8,
    )  # fmt: skip
