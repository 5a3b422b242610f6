"""The breakdown picture: what a mini-batch is made of, point by point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from mobisim.errors import InputError
from mobisim.report.figure import GREY, KEY_ROW, KIND_COLOUR, Box, Key, key_rows, page
from mobisim.report.series import Series, by, mean, others
from mobisim.report.sweep_table import Sweep
from mobisim.units import human_time

WIDTH, LEFT, BAR_WIDTH, RIGHT = 9.0, 2.3, 5.4, 1.3
ROW, TOP, BELOW = 0.27, 0.95, 0.8
MAX_BARS = 60
NOTE = "seconds a mini-batch; waiting is left out, since others are worked on meanwhile"
# Work in the order of the pipeline; hatches tell apart in grey what lightness does not.
HATCHES = {
    "forward": "", "backward": "--", "encode": "//", "transfer": "\\\\", "latency": "..",
    "decode": "xx", "side_forward": "++", "step": "", "reply": "oo", "download": "|",
    "update": "xx", "merge": "\\",
}  # fmt: skip


def draw_breakdown(sweep: Sweep, out: Path) -> None:
    """Draw the seconds of work in a mini-batch as stacked bars of equal length, totals beside them.

    Raises:
        InputError: no point came to an end, or there are more than a page holds.
    """
    bars = by(sweep.done, others(sweep))
    if not 0 < len(bars) <= MAX_BARS:
        raise InputError(
            "as many bars as this do not make a picture",
            where="--kind breakdown",
            expected=f"1 to {MAX_BARS} points",
            got=str(len(bars)),
        )
    seconds = [_seconds(bar) for bar in bars]
    kinds = [kind for kind in HATCHES if any(s[kind] for s in seconds)]
    entries: Key = [(kind.replace("_", " "), KIND_COLOUR[kind], HATCHES[kind]) for kind in kinds]
    rows = key_rows(entries, WIDTH - 0.6)
    top = TOP + len(rows) * KEY_ROW + 0.15
    with page(WIDTH, top + len(bars) * ROW + BELOW) as sheet:
        title = "what the work on a mini-batch is made of"
        sheet.write(0.3, 0.2, f"{sweep.name}: {title}", fontsize=13)
        sheet.write(0.3, 0.52, NOTE, color=GREY)
        sheet.key(rows, 0.3, TOP)
        axes = sheet.axes(Box(LEFT, top, BAR_WIDTH, len(bars) * ROW))
        for place, found in enumerate(seconds):
            _draw_bar(axes, place, found, kinds)
        _finish(axes, bars)
        sheet.save(out)


def _seconds(bar: Series) -> dict[str, float]:
    return {kind: mean(bar.rows, f"step_breakdown_s.{kind}") or 0.0 for kind in HATCHES}


def _draw_bar(axes: Axes, place: int, found: dict[str, float], kinds: Sequence[str]) -> None:
    total = sum(found.values())
    left = 0.0
    for kind in kinds:
        share = 100 * found[kind] / total
        axes.barh(
            place, share, 0.72, left=left, color=KIND_COLOUR[kind], hatch=HATCHES[kind],
            edgecolor="white", lw=0.5,
        )  # fmt: skip
        left += share
    axes.annotate(
        human_time(total), (100, place), xytext=(6, 0), textcoords="offset points", va="center"
    )


def _finish(axes: Axes, bars: Sequence[Series]) -> None:
    axes.set_xlim(0, 100)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_yticks(range(len(bars)), [bar.label or "this run" for bar in bars])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("share of the work on a mini-batch (%)")
