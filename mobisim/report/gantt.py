"""Gantt rows: spans as bars, waiting lines as heights, and how busy each actor was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mobisim.report.figure import GREY, INK, KIND_COLOUR, PALE, PART_COLOUR, Key, TimeUnit
from mobisim.report.slices import WORK, Slice, role_of
from mobisim.report.wording import percent
from mobisim.span import KINDS

# Places in a row of height 1, downwards from its middle.
BAR_TOP, BAR_HEIGHT = -0.34, 0.52
CENTRE = BAR_TOP + BAR_HEIGHT / 2
TRAVEL = 0.21  # where latency is drawn
LINE_BOTTOM, LINE_HEIGHT = 0.44, 0.2  # the strip that shows how many wait in line

POINTS_PER_CHARACTER = 6.2
MIN_EDGED_POINTS = 6.0  # a white edge would swallow narrower bars
MIN_POINTS = 0.75  # thinner bars are widened to be seen, where so few of them lie in a row
MAX_WIDENED = 80
IDLE = ("wait", "pause", "down")
DARK_KINDS = frozenset({"forward", "step", "update"})  # the numbers on these are white

Depth = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True)
class Canvas:
    """Axes whose rows are actors and whose length is time; `points` print one time unit."""

    axes: Axes
    unit: TimeUnit
    points: float


@dataclass(frozen=True)
class Row:
    """What one actor's row shows."""

    actor: str
    by_kind: Mapping[str, Sequence[Slice]]
    depth: Depth

    @property
    def works(self) -> bool:
        """Whether the actor itself does anything, or only keeps others waiting."""
        return any(kind not in ("queue", "joint") for kind in self.by_kind)

    @property
    def is_cut(self) -> bool:
        """Whether some of the work was cut short."""
        return any(span.cut for span in self._work)

    def is_cut_at(self, end: float) -> bool:
        """Whether that is what ended some of the work."""
        return any(span.cut and span.end == end for span in self._work)

    @property
    def _work(self) -> Iterator[Slice]:
        return (span for kind in WORK for span in self.by_kind.get(kind, ()))


def make_rows(slices: Iterable[Slice], actors: Sequence[str]) -> list[Row]:
    """One row for each actor, from the slices of all."""
    return [_row(actor, spans) for actor, spans in _by_actor(slices, actors).items()]


def draw(canvas: Canvas, rows: Sequence[Row], end: float) -> None:
    """Draw the rows up to `end` in seconds."""
    deepest = _deepest(rows)
    _frame(canvas, [row.actor for row in rows], end)
    for place, row in enumerate(rows):
        _draw_bars(canvas, place, row)
        _draw_depth(canvas, place, row, deepest.get(role_of(row.actor), 0))


def _by_actor(slices: Iterable[Slice], actors: Sequence[str]) -> dict[str, list[Slice]]:
    groups: dict[str, list[Slice]] = {actor: [] for actor in actors}
    for span in slices:
        if span.actor in groups:
            groups[span.actor].append(span)
    return groups


def _row(actor: str, spans: Iterable[Slice]) -> Row:
    by_kind: dict[str, list[Slice]] = defaultdict(list)
    for span in spans:
        by_kind[span.kind].append(span)
    return Row(actor, by_kind, queue_depth(by_kind.get("queue", [])))


def _frame(canvas: Canvas, actors: Sequence[str], end: float) -> None:
    axes = canvas.axes
    axes.set_xlim(0, canvas.unit.of(end))
    axes.set_ylim(len(actors) - 0.5, -0.5)
    places = [place + CENTRE for place in range(len(actors))]
    axes.set_yticks(places, [_shortened(actor) for actor in actors])
    axes.set_xlabel(f"simulated time ({canvas.unit.name})")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=PALE, lw=0.6)
    axes.set_axisbelow(True)


def _shortened(actor: str, limit: int = 18) -> str:
    return actor if len(actor) <= limit else f"…{actor[1 - limit :]}"


def _draw_bars(canvas: Canvas, place: int, row: Row) -> None:
    for kind in (*IDLE, *KINDS):  # idle time lies below all work
        spans = row.by_kind.get(kind, [])
        if kind in IDLE or kind in WORK:
            _bars(canvas, place, [span for span in spans if not (span.cut and kind in WORK)])
            _bars(canvas, place, [span for span in spans if span.cut and kind in WORK], "////")
        if kind in WORK:
            _number(canvas, place, spans)
    for span in row.by_kind.get("latency", []):
        ends = canvas.unit.of(span.start), canvas.unit.of(span.end)
        canvas.axes.hlines(place + TRAVEL, *ends, color=KIND_COLOUR["latency"], lw=1.2)


def _bars(canvas: Canvas, place: int, spans: Sequence[Slice], hatch: str | None = None) -> None:
    """Draw the bars of spans of one kind."""
    if not spans:
        return
    kind = spans[0].kind
    least = MIN_POINTS / canvas.points if kind in WORK and len(spans) <= MAX_WIDENED else 0.0
    ranges = [(canvas.unit.of(s.start), max(least, canvas.unit.of(s.end - s.start))) for s in spans]
    edged = [kind in WORK and width * canvas.points > MIN_EDGED_POINTS for _, width in ranges]
    canvas.axes.broken_barh(
        ranges,
        (place + BAR_TOP, BAR_HEIGHT),
        facecolors=KIND_COLOUR[kind],
        edgecolors="white",
        linewidths=[0.6 if edge else 0.0 for edge in edged],
        hatch=hatch,
        snap=False,  # snapped to whole pixels, narrow bars would vanish
    )


def _number(canvas: Canvas, place: int, spans: Sequence[Slice]) -> None:
    """Write the mini-batch into each bar that has room for it."""
    left, right = canvas.axes.get_xlim()
    many = len({span.device for span in spans}) > 1
    for span in spans:
        text = _label(span, many=many)
        start = max(left, canvas.unit.of(span.start))
        end = min(right, canvas.unit.of(span.end))
        if text and (end - start) * canvas.points > (len(text) + 0.6) * POINTS_PER_CHARACTER:
            canvas.axes.text(
                (start + end) / 2,
                place + CENTRE,
                text,
                ha="center",
                va="center_baseline",
                fontsize=9,
                color="white" if span.kind in DARK_KINDS else INK,
            )


def _label(span: Slice, *, many: bool) -> str:
    if span.batch is None or span.cut:
        return ""
    if span.device is None:
        return f"r{span.batch}"  # drawn from what the server has kept
    return f"{span.device}:{span.batch}" if many else str(span.batch)


def queue_depth(spans: Iterable[Slice]) -> Depth:
    """How many wait in line: the instants at which that changes, and the depth from each on."""
    waiting = [span for span in spans if span.end > span.start]
    edges = sorted([(s.start, 1) for s in waiting] + [(s.end, -1) for s in waiting])
    if not edges:
        return np.zeros(0), np.zeros(0, np.int64)
    at, change = zip(*edges, strict=True)
    return np.array(at, np.float64), np.cumsum(np.array(change, np.int64))


def _deepest(rows: Iterable[Row]) -> dict[str, int]:
    """The longest line before any actor of each role, of those that have one."""
    longest: dict[str, int] = {}
    for row in rows:
        role = role_of(row.actor)
        longest[role] = max(longest.get(role, 0), int(row.depth[1].max(initial=0)))
    return {role: depth for role, depth in longest.items() if depth}


def _draw_depth(canvas: Canvas, place: int, row: Row, deepest: int) -> None:
    at, waiting = row.depth
    if not len(at):
        return
    strip = (LINE_BOTTOM, LINE_HEIGHT) if row.works else (BAR_TOP + BAR_HEIGHT, BAR_HEIGHT)
    bottom, height = strip
    tops = place + bottom - height * waiting / deepest
    canvas.axes.fill_between(
        at / canvas.unit.seconds,
        tops,
        place + bottom,
        step="post",
        color=KIND_COLOUR["queue"],
        lw=0,
    )


def key(rows: Sequence[Row]) -> Key:
    """What there is to see in the rows: kinds of work and of waiting."""
    deepest = _deepest(rows)
    depths = ", ".join(f"{depth:,} at the {role}" for role, depth in deepest.items())
    words = {
        "wait": "idle",
        "pause": "battery low or away",
        "down": "server down",
        "queue": f"waiting in line (up to {depths})",
    }
    kinds = {kind for row in rows for kind in row.by_kind}
    entries = [
        (words.get(kind, kind.replace("_", " ")), KIND_COLOUR[kind], "")
        for kind in KINDS
        if kind in kinds and kind in KIND_COLOUR and (kind != "queue" or deepest)
    ]
    return [*entries, *([("cut", "white", "////")] if any(row.is_cut for row in rows) else [])]


def draw_busy(axes: Axes, actors: Sequence[str], utilisation: Mapping[str, float]) -> None:
    """Draw how busy each actor was over the whole run."""
    axes.set_xlim(0, 1.75)
    axes.set_ylim(len(actors) - 0.5, -0.5)
    axes.set_axis_off()
    axes.annotate(
        "busy, whole run",
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=9,
        color=GREY,
    )
    for place, actor in enumerate(actors):
        if actor in utilisation:
            _draw_share(axes, place + CENTRE, utilisation[actor], PART_COLOUR[role_of(actor)])


def _draw_share(axes: Axes, place: float, share: float, colour: str) -> None:
    axes.barh(place, 1.0, height=0.34, color="#f0f0f0")
    axes.barh(place, share, height=0.34, color=colour)
    axes.text(1.06, place, percent(share), va="center", fontsize=9)


def mark_end(axes: Axes, at: float, text: str) -> None:
    """Draw the line at which a run was cut."""
    axes.axvline(at, color=INK, lw=2)
    axes.annotate(
        text,
        (1, 0),
        xycoords="axes fraction",
        xytext=(0, -29),
        textcoords="offset points",
        ha="right",
    )
