"""The picture of a comparison: time over the uplink, memory, quality, what leaves the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from mobisim.report.comparison import Comparison, Standing
from mobisim.report.comparison_table import interval
from mobisim.report.comparison_times import draw_times, heading, widened
from mobisim.report.figure import CLEAR, GREY, INK, PALE, Box, Page, empty, log_times, page
from mobisim.scenario.methods import METHODS
from mobisim.units import human_size

WIDTH, HEIGHT = 11.0, 8.5
NAMES = 1.15  # inches for the methods' names
TIME = Box(0.85, 1.15, 4.5, 2.95)
MEMORY = Box(6.75 + NAMES, 1.15, 2.2, 2.95)
QUALITY = Box(0.3 + NAMES, 4.95, 3.2, 2.65)
LEAVES = Box(5.6 + NAMES, 4.95, 3.95, 2.65)
HEADING = 0.3  # above each panel
FEWEST = 5  # rows that a panel has room for: bars of one method alone are no thicker
KINDS = {
    "activations": "o",
    "tokens": "D",
    "labels": "s",
    "residuals": "^",
    "scalars": "v",
    "model": "P",
}


@contextmanager
def drawn_comparison(found: Comparison) -> Iterator[Page]:
    """The picture of a comparison, to be saved as often as there are formats."""
    shown = [standing for standing in found.standings if standing.error is None]
    with page(WIDTH, HEIGHT) as sheet:
        sheet.write(0.3, 0.2, f"{found.name}: methods compared", fontsize=13)
        about = (found.model, found.device, found.link, found.server)
        sheet.write(0.3, 0.52, " · ".join(part for part in about if part), color=GREY)
        if found.stand_in:
            sheet.write(WIDTH - 0.3, 0.52, found.stand_in, color="#a3330b", ha="right")
        for box, words in (
            (TIME, heading(found)),
            (MEMORY, "peak memory of the device"),
            (QUALITY, _quality_heading(found)),
            (LEAVES, f"bytes that leave {found.devices}"),
        ):
            left = box.left if box is TIME else box.left - NAMES
            sheet.write(left, box.top - HEADING, words, color=INK)
        draw_times(sheet.axes(TIME), found)
        _draw_memory(sheet.axes(MEMORY), shown)
        _draw_quality(sheet.axes(QUALITY), found, shown)
        _draw_leaves(sheet.axes(LEAVES), shown)
        yield sheet


def _by_method(axes: Axes, shown: Sequence[Standing]) -> None:
    axes.set_yticks(range(len(shown)), [standing.method for standing in shown])
    axes.set_ylim(max(len(shown), FEWEST) - 0.4, -0.6)
    axes.grid(axis="x", color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _write_values(axes: Axes, values: Sequence[str]) -> None:
    """A column of numbers beside the rows, where no mark can cover them."""
    for number, value in enumerate(values):
        axes.annotate(
            value, (1.03, number), xycoords=("axes fraction", "data"), fontsize=8.5, va="center",
            annotation_clip=False,
        )  # fmt: skip


def _draw_memory(axes: Axes, shown: Sequence[Standing]) -> None:
    known = [standing for standing in shown if standing.peak_bytes is not None]
    if not known:
        empty(axes, "no memory is stated")
        return
    _by_method(axes, known)
    for number, standing in enumerate(known):
        assert standing.peak_bytes is not None
        fits = standing.fits is not False
        axes.barh(
            number, standing.peak_bytes / 1e9, height=0.62, color="#5b9bd5" if fits else "white",
            edgecolor="#2b6cb0" if fits else INK, hatch="" if fits else "////", lw=0.8,
        )  # fmt: skip
        if not fits:
            axes.annotate(
                standing.shortage, (0, number), xytext=(5, 0),
                textcoords="offset points", fontsize=8, va="center",
                bbox=CLEAR,
            )  # fmt: skip
    _write_values(axes, [human_size(standing.peak_bytes or 0) for standing in known])
    capacity = known[0].capacity_bytes
    if capacity is not None:
        axes.axvline(capacity / 1e9, color=INK, lw=1.2, ls=(0, (4, 2)))
        axes.annotate(
            f"the device has {human_size(capacity)}", (capacity / 1e9, -0.6), xytext=(3, 2),
            textcoords="offset points", fontsize=8, va="bottom", ha="right", annotation_clip=False,
        )  # fmt: skip
    all_fit = all(standing.fits is not False for standing in known)
    axes.set_xlabel("GB" if all_fit else "GB; hatched: does not fit")


def _quality_heading(found: Comparison) -> str:
    if not found.trained:
        rounds = any(METHODS[one.method].rounds for one in found.standings if one.step_s)
        return "time per step (with rounds: per round)" if rounds else "time per step"
    return f"{(found.metric or '').replace('_', ' ')} on held-out samples"


def _draw_quality(axes: Axes, found: Comparison, shown: Sequence[Standing]) -> None:
    if not found.trained:
        _draw_steps(axes, shown)
        return
    known = [standing for standing in shown if standing.final is not None]
    _by_method(axes, known)
    for number, standing in enumerate(known):
        final = standing.final
        assert final is not None
        if final.low is not None and final.high is not None:
            axes.plot([final.low, final.high], [number, number], color=INK, lw=1.6)
        axes.plot(final.mean, number, "o", ms=6, color=INK)
    _write_values(axes, [interval(standing.final) for standing in known])
    axes.margins(x=0.06)
    seeds = f"{found.num_seeds} seeds, 95 % Student t" if found.num_seeds > 1 else "one seed"
    axes.set_xlabel(seeds)


def _draw_steps(axes: Axes, shown: Sequence[Standing]) -> None:
    known = [standing for standing in shown if standing.step_s]
    if not known:
        empty(axes, "nothing runs")
        return
    _by_method(axes, known)
    for number, standing in enumerate(known):
        axes.plot(standing.step_s, number, "o", ms=6, color=INK)  # type: ignore[arg-type]  # known
    axes.set_xscale("log")
    axes.set_xlim(*widened(*axes.get_xlim(), margin=1.5))
    log_times(axes.xaxis, *axes.get_xlim())


def _draw_leaves(axes: Axes, shown: Sequence[Standing]) -> None:
    known = [standing for standing in shown if standing.leaves is not None]
    if not any(standing.leaves for standing in known):
        empty(axes, "nothing leaves it")
        return
    _by_method(axes, known)
    named: set[str] = set()
    for number, standing in enumerate(known):
        for kind, mark in KINDS.items():
            if not (num_bytes := (standing.leaves or {}).get(kind)):
                continue
            axes.plot(
                num_bytes, number, mark, ms=7, mfc="none", mec=INK, mew=1.2,
                label=kind if kind not in named else None,
            )  # fmt: skip
            named.add(kind)
        if not standing.leaves:
            axes.annotate(
                "nothing", (0.01, number), xycoords=("axes fraction", "data"), fontsize=8,
                color=GREY, va="center", bbox=CLEAR,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda num_bytes, _: human_size(num_bytes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(
        frameon=False, fontsize=8, ncols=3, loc="upper left", bbox_to_anchor=(-0.28, -0.1),
        handletextpad=0.2,
    )  # fmt: skip
