"""The picture of a race: when each method comes to the target, seed by seed, and who never does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes

from mobisim.report.figure import GREY, INK, PALE, Box, log_times, page
from mobisim.report.series import style

ROW, LEFT, AXIS, WORDS = 0.36, 2.1, 5.6, 1.9  # inches
ROOM = 1.25  # on both sides of the times, as a factor


@dataclass(frozen=True)
class Racer:
    """A method's runs, seed by seed: seconds to the target, None where it is never met."""

    name: str
    times_s: Sequence[float | None]
    makespans_s: Sequence[float]
    accuracy: float  # in percent, the mean over the seeds


def draw_race(racers: Sequence[Racer], goal: str, out: Path) -> None:
    """The first ones first; a run that never comes to the target is a cross at its end."""
    racers = sorted(racers, key=_place)
    top, height = 0.75, ROW * len(racers)
    with page(LEFT + AXIS + WORDS, top + height + 0.65) as sheet:
        axes = sheet.axes(Box(LEFT, top, AXIS, height))
        _scale(axes, racers)
        for number, racer in enumerate(racers):
            _row(axes, len(racers) - number - 0.5, racer, style(number).colour)
        sheet.write(0.15, 0.12, f"Time to {goal}, simulated, each dot one seed", fontsize=11)
        words = "A cross never comes to it: the end of its run"
        sheet.write(0.15, 0.38, words, color=GREY, fontsize=9)
        sheet.write(LEFT + AXIS + 0.15, top - 0.22, "accuracy in the end", color=GREY, fontsize=9)
        sheet.save(out)


def _place(racer: Racer) -> tuple[int, float]:
    there = [time_s for time_s in racer.times_s if time_s is not None]
    return len(racer.times_s) - len(there), mean(there or racer.makespans_s)


def _scale(axes: Axes, racers: Sequence[Racer]) -> None:
    shown = [
        end if time_s is None else time_s
        for racer in racers
        for time_s, end in zip(racer.times_s, racer.makespans_s, strict=True)
    ]
    low, high = min(shown) / ROOM, max(shown) * ROOM
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    log_times(axes.xaxis, low, high)
    axes.set_ylim(0, len(racers))
    axes.set_yticks(
        [len(racers) - number - 0.5 for number in range(len(racers))],
        [racer.name for racer in racers],
    )
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("simulated time")
    axes.grid(visible=True, axis="x", color=PALE, lw=0.6)
    axes.set_axisbelow(True)


def _row(axes: Axes, y: float, racer: Racer, colour: str) -> None:
    there = [time_s for time_s in racer.times_s if time_s is not None]
    axes.plot(there, [y] * len(there), "o", color=colour, ms=6.5, alpha=0.75, mec="white", mew=0.6)
    ends = [
        end for time_s, end in zip(racer.times_s, racer.makespans_s, strict=True) if time_s is None
    ]
    axes.plot(ends, [y] * len(ends), "x", color=GREY, ms=6, mew=1.4)
    axes.annotate(
        f"{racer.accuracy:.1f} %", (1, y), xycoords=("axes fraction", "data"),
        xytext=(11, 0), textcoords="offset points", va="center", color=INK, fontsize=9,
    )  # fmt: skip
