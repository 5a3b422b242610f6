"""The times of a comparison: a line for each method over the uplink's rate, named at its end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from mobisim.report.comparison import Comparison
from mobisim.report.figure import CLEAR, GREY, INK, PALE, empty, log_times
from mobisim.report.series import Style, style
from mobisim.scenario.methods import METHODS
from mobisim.units import human_rate

NAME_GAP = 0.06  # of the axis, between the names of two lines
LEAST_RANGE = 6.25  # of the axis: holds two round times at least
BESIDE = 1.07  # of the axis: where names begin
_NAMES: dict[str, Any] = {
    "xycoords": "axes fraction", "textcoords": "axes fraction", "fontsize": 8.5, "va": "center",
    "annotation_clip": False,
}  # fmt: skip


def heading(found: Comparison) -> str:
    """What is timed: with rounds or a replay, methods do not go through the same samples."""
    if found.timed_by == "makespan":
        return "time of the whole run against the uplink"
    metric = (found.metric or "").replace("_", " ")
    return f"time to {metric} {found.target:g} in validation against the uplink"


def draw_times(axes: Axes, found: Comparison) -> None:
    """The times of all methods that come to an end, and the names of those that miss the target."""
    seconds = _known_times(found)
    if not seconds:
        empty(axes, "no rates were compared" if not found.rates else "no method gets there")
        return
    rates = [at.rate for at in found.rates]
    looks = _looks(seconds)
    for name, values in seconds.items():
        look = looks[name]
        axes.plot(
            rates, values, color=look.colour, ls=look.dashes, marker=look.mark, ms=4.5, lw=1.5
        )
    _mark_crossings(axes, found, seconds)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(*widened(*axes.get_ylim(), margin=1.1))
    log_times(axes.yaxis, *axes.get_ylim())
    axes.set_xticks(rates, [f"{rate / 1e6:g}" for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("uplink (Mbit/s)")
    axes.grid(color=PALE, lw=0.6)
    _name_ends(axes, _ends(found, seconds), looks)


def widened(low: float, high: float, *, margin: float) -> tuple[float, float]:
    """A logarithmic axis of times with a margin, and long enough to write round times at it."""
    middle, half = math.sqrt(low * high), max(math.sqrt(high / low) * margin, LEAST_RANGE**0.5)
    return middle / half, middle * half


def _ends(found: Comparison, seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Where each line ends; a method that misses the target has none, and its name comes on top."""
    missed = {one.method: math.inf for one in found.standings if one.num_met is not None}
    return missed | {name: values[-1] for name, values in seconds.items()}


def _known_times(found: Comparison) -> dict[str, list[float]]:
    """The times at all rates of each method that has some."""
    names = found.rates[0].seconds if found.rates else ()
    times = {name: [at.seconds[name] for at in found.rates] for name in names}
    return {name: values for name, values in times.items() if any(map(math.isfinite, values))}


def _looks(names: Iterable[str]) -> dict[str, Style]:
    """Colours for methods over the link; those on the device alone are grey: any link will do."""
    over, alone = count(), count()
    return {
        name: style(next(over)) if METHODS[name].up
        else Style(GREY, style(next(alone)).dashes, "")
        for name in names
    }  # fmt: skip


def _name_ends(axes: Axes, ends: Mapping[str, float], looks: Mapping[str, Style]) -> None:
    """Write each line's name where it ends, and move apart what would touch."""
    low, high = map(math.log, axes.get_ylim())
    at = {name: min((math.log(end) - low) / (high - low), 1.0) for name, end in ends.items()}
    places = apart(at, NAME_GAP)
    for name in looks:
        axes.annotate(
            name, (1.0, at[name]), (BESIDE, places[name]), **_NAMES, color=looks[name].colour,
            arrowprops={"arrowstyle": "-", "color": PALE, "lw": 0.8, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
    missed = [name for name in places if name not in looks]
    titled = {"not met by": 1.0 + NAME_GAP, **{name: places[name] for name in missed}}
    for words, place in titled.items() if missed else ():
        axes.annotate(words, (BESIDE, place), **_NAMES, color=GREY)


def apart(at: Mapping[str, float], gap: float) -> dict[str, float]:
    """Places between 0 and 1 near the given ones, in their order, at least `gap` apart.

    Of those that touch the middle stays where it was, unless an end of the axis is in the way.
    """
    heaps: list[list[str]] = []
    for name in sorted(at, key=lambda name: at[name]):
        heaps.append([name])
        while len(heaps) > 1 and _lowest(heaps[-1], at, gap) < _lowest(
            heaps[-2], at, gap
        ) + gap * len(heaps[-2]):
            heaps[-2:] = [heaps[-2] + heaps[-1]]
    return {
        name: _lowest(heap, at, gap) + gap * number
        for heap in heaps
        for number, name in enumerate(heap)
    }


def _lowest(heap: Sequence[str], at: Mapping[str, float], gap: float) -> float:
    """Where the lowest of a heap of names is written."""
    high = gap * (len(heap) - 1)
    middle = fmean(at[name] for name in heap)
    return max(min(middle - high / 2, 1.0 - high), 0.0)


def _mark_crossings(axes: Axes, found: Comparison, seconds: dict[str, list[float]]) -> None:
    rates = [at.rate for at in found.rates]
    for one in found.crossings:
        if one.rate is None or not rates[0] <= one.rate <= rates[-1] or one.alone not in seconds:
            continue
        at = seconds[one.alone][0]
        axes.plot(one.rate, at, "o", ms=11, mfc="none", mec=INK, mew=1.1, zorder=4)
        axes.annotate(
            human_rate(one.rate), (one.rate, at), xytext=(-6, -6), textcoords="offset points",
            fontsize=8, color=INK, ha="right", va="top", zorder=5,
            bbox=CLEAR,
        )  # fmt: skip
