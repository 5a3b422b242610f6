"""Figures: the canvas, type and colours that all pictures share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, NullLocator

from mobisim.units import human_time

DPI = 150
SQUARE, TO_NAME, TO_NEXT, KEY_ROW = 0.15, 0.22, 0.28, 0.25  # inches, in a key
INK = "#262626"
GREY = "#6b6b6b"
PALE = "#d9d9d9"

# One hue for each part of the system; within a hue the kinds differ by lightness, so that the
# picture also reads in grey and without telling red from green.
PART_COLOUR = {
    "device": "#2b6cb0",
    "uplink": "#e58606",
    "latency": "#c4c4c4",
    "server": "#12654f",
    "downlink": "#f6c886",
}
KIND_COLOUR = {
    "forward": "#2b6cb0",
    "encode": "#9ecae9",
    "transfer": "#e58606",
    "download": "#f6c886",
    "decode": "#b9e2d3",
    "side_forward": "#5fb597",
    "step": "#12654f",
    "wait": "#efefef",
    "queue": "#b0b0b0",
    "latency": "#8c8c8c",
    "pause": "#d6e6f4",
    "backward": "#5c93c9",
    "reply": "#f2b134",
    "down": "#c0504d",
    "update": "#1d4a75",
    "merge": "#86cdb3",
}

CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # behind words on a line

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs everywhere
    "font.size": 9.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "hatch.linewidth": 0.8,
    "path.simplify": False,
    "svg.hashsalt": "mobisim",  # else names within the file are random
}
_UNDATED: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None}}

Key = Sequence[tuple[str, str, str]]  # name, colour, hatch


@dataclass(frozen=True)
class Box:
    """A rectangle in inches from the upper left corner of the page."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Page:
    """A figure that is laid out in inches, so that nothing moves when its content does."""

    figure: Figure
    width: float
    height: float

    def axes(self, box: Box) -> Axes:
        """New axes at `box`."""
        bottom = self.height - box.top - box.height
        inches = (box.left / self.width, bottom / self.height)
        size = (box.width / self.width, box.height / self.height)
        return self.figure.add_axes((*inches, *size))

    def write(self, left: float, top: float, text: str, **style: object) -> None:
        """`text` with its upper left corner at that place, in inches."""
        options: dict[str, object] = {"va": "top", "ha": "left", "fontsize": 9.5, **style}
        self.figure.text(left / self.width, 1 - top / self.height, text, **options)  # type: ignore[arg-type]

    def key(self, rows: Sequence[Key], left: float, top: float) -> None:
        """Coloured squares with their names, in rows from that place on, in inches."""
        for number, row in enumerate(rows):
            self._key_row(row, left, top + number * KEY_ROW)

    def _key_row(self, row: Key, left: float, top: float) -> None:
        middle = 1 - (top + SQUARE / 2) / self.height
        for name, colour, hatch in row:
            self._square(left, top, colour, hatch)
            x = (left + TO_NAME) / self.width
            self.figure.text(x, middle, name, fontsize=9, va="center_baseline")
            left += _key_width(name)

    def _square(self, left: float, top: float, colour: str, hatch: str) -> None:
        corner = (left / self.width, 1 - (top + SQUARE) / self.height)
        size = (SQUARE / self.width, SQUARE / self.height)
        square = Rectangle(corner, *size, facecolor=colour, edgecolor=GREY, lw=0.4, hatch=hatch)
        square.set_transform(self.figure.transFigure)
        self.figure.add_artist(square)

    def save(self, out: Path, sort: str | None = None) -> None:
        """The page as a PNG or SVG file of which every byte follows from the content."""
        sort = sort or out.suffix.removeprefix(".") or "png"
        self.figure.savefig(out, format=sort, dpi=DPI, metadata=_UNDATED[sort])


@contextmanager
def page(width: float, height: float) -> Iterator[Page]:
    """An empty page, and the style in which it must also be saved."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        yield Page(figure, width, height)


def key_rows(entries: Key, width: float) -> list[Key]:
    """`entries` in as many rows as a page needs that leaves them `width` inches."""
    rows: list[list[tuple[str, str, str]]] = [[]]
    used = 0.0
    for entry in entries:
        wide = _key_width(entry[0])
        if used + wide - TO_NEXT > width and rows[-1]:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += wide
    return list(rows)


def _key_width(name: str) -> float:
    words = TextPath((0, 0), name, size=9, prop=FontProperties(family="DejaVu Sans"))
    return TO_NAME + float(words.get_extents().width) / 72 + TO_NEXT


@dataclass(frozen=True)
class TimeUnit:
    """The unit of a time axis, as seconds are shown in it."""

    name: str
    seconds: float

    def of(self, seconds: float) -> float:
        """`seconds` in this unit."""
        return seconds / self.seconds


# The least length of an axis in each unit, as mobisim.units.human_time has it.
_UNITS: Mapping[str, tuple[float, float]] = {
    "d": (86400.0, 172800.0),
    "h": (3600.0, 7200.0),
    "min": (60.0, 120.0),
    "s": (1.0, 1.0),
    "ms": (1e-3, 1e-3),
}


def empty(axes: Axes, why: str) -> None:
    """Words in place of a panel that has nothing to show."""
    axes.set_axis_off()
    axes.text(0.0, 0.95, why, transform=axes.transAxes, color=GREY, va="top")


# What people write at a logarithmic axis of times: round in the unit that they are read in.
_ROUND_S = (
    *(factor * 10.0**power for power in range(-6, 1) for factor in (1, 2, 5)),
    *(10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 18000.0),
    *(36000.0, 86400.0, 172800.0),
    *(86400.0 * factor * 10.0**power for power in range(6) for factor in (5, 10, 20)),
)
SPACING = 1 / 7  # of an axis between two times that are written at it


def log_times(axis: Axis, low: float, high: float) -> None:
    """Write round times at a logarithmic axis, so far apart that they do not touch."""
    least = (high / low) ** SPACING
    ticks: list[float] = []
    for seconds in _ROUND_S:
        if low <= seconds <= high and (not ticks or seconds >= ticks[-1] * least):
            ticks.append(seconds)
    axis.set_ticks(ticks or [low, high])
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: human_time(seconds)))
    axis.set_minor_locator(NullLocator())


def time_unit(span_s: float) -> TimeUnit:
    """The unit in which an axis of `span_s` seconds is easy to read."""
    for name, (seconds, least_s) in _UNITS.items():
        if span_s >= least_s:
            return TimeUnit(name, seconds)
    return TimeUnit("us", 1e-6)
