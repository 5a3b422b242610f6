"""The timeline picture: who worked on what when, and what set the pace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mobisim.report import gantt, wording
from mobisim.report.figure import (
    GREY,
    KEY_ROW,
    PART_COLOUR,
    Box,
    Key,
    Page,
    key_rows,
    page,
    time_unit,
)
from mobisim.report.slices import (
    MAX_SLICES,
    WORK,
    Slice,
    View,
    count_slices,
    pick_actors,
    read_slices,
    role_of,
)
from mobisim.report.wording import count, percent
from mobisim.units import human_time

WIDTH = 11.0
SHOWN_STEPS = 10
STEPS_PER_DEVICE = 3

ROW, MIN_ROW, TALL_ROWS = 0.46, 0.24, 14  # inches; rows shrink beyond TALL_ROWS of them
HEADER, LEGEND, AXIS, BLAME, MARGIN = 0.88, 0.4, 0.65, 1.3, 0.3
NAMES, BUSY, GAP = 1.45, 1.15, 0.2


@dataclass(frozen=True)
class Picture:
    """What is drawn: the rows of a window, and what was left out of it."""

    rows: list[gantt.Row]
    key: list[Key]
    end: float
    num_steps: int
    notes: tuple[str, ...]

    @property
    def actors(self) -> list[str]:
        """Who has a row."""
        return [row.actor for row in self.rows]

    @property
    def row_height(self) -> float:
        """The height of a row in inches."""
        return max(MIN_ROW, min(ROW, ROW * TALL_ROWS / len(self.rows)))

    @property
    def top(self) -> float:
        """Where the rows begin, in inches."""
        return HEADER + LEGEND + (len(self.key) - 1) * KEY_ROW


def draw_timeline(result_dir: Path, out: Path) -> bool:
    """Draw the first mini-batches of every actor to `out`; False where there are no spans.

    At most MAX_SLICES spans of MAX_ACTORS actors are drawn; the picture says what it left out.
    """
    summary = json.loads((result_dir / "summary.json").read_text("utf-8"))
    manifest = json.loads((result_dir / "manifest.json").read_text("utf-8"))
    picture = read_picture(result_dir, manifest["actors"])
    if picture.end <= 0:
        return False
    height = picture.top + len(picture.rows) * picture.row_height + AXIS + BLAME + MARGIN
    with page(WIDTH, height) as sheet:
        _headings(sheet, summary, manifest, picture)
        _draw_rows(sheet, picture, summary)
        _draw_blame(sheet, summary)
        sheet.write(MARGIN, sheet.height - 0.35, "; ".join(picture.notes), color=GREY, fontsize=9)
        sheet.save(out)
    return True


def read_picture(result_dir: Path, actors: Sequence[str]) -> Picture:
    """The part of a result that the picture shows."""
    picked = pick_actors(actors)
    num_devices = sum(role_of(actor) == "device" for actor in actors)
    end, num_steps = _window(result_dir / "steps.parquet", num_devices)
    view = View(picked, end=float("inf") if end is None else end)
    spans = result_dir / "spans.parquet"
    slices = list(islice(read_slices(spans, view), MAX_SLICES))
    left_out = count_slices(spans, view) - len(slices) if len(slices) == MAX_SLICES else 0
    last = max((span.end for span in slices), default=0.0)
    shown = _seen(slices, picked)
    rows = gantt.make_rows(slices, shown)
    return Picture(
        rows=rows,
        key=key_rows(gantt.key(rows), WIDTH - 2 * MARGIN),
        end=last if left_out or end is None else end,
        num_steps=num_steps,
        notes=(_numbers(num_devices), *_notes(len(actors), picked, shown, left_out)),
    )


def _window(steps: Path, num_devices: int) -> tuple[float | None, int]:
    """Where the shown window ends and how many steps it holds; None where it is the whole run."""
    wanted = max(SHOWN_STEPS, STEPS_PER_DEVICE * num_devices)
    with pq.ParquetFile(steps) as file:
        if file.metadata.num_rows <= wanted:
            return None, file.metadata.num_rows
        ends: list[float] = []
        for batch in file.iter_batches(wanted, columns=["end"]):
            ends += batch.column("end").to_numpy().tolist()
            if len(ends) >= wanted:
                break
    return ends[wanted - 1], wanted


def _seen(slices: Sequence[Slice], actors: Sequence[str]) -> tuple[str, ...]:
    """The actors that have something to show; a worker's idleness is something, too."""
    seen = {span.actor for span in slices if span.kind in {*WORK, "queue", "down"}}
    return tuple(actor for actor in actors if actor in seen or actor.startswith("server/"))


def _numbers(num_devices: int) -> str:
    on_server = ", on the server device:mini-batch" if num_devices > 1 else ""
    return f"numbers in bars: mini-batch{on_server}"


def _notes(
    num_actors: int, picked: Sequence[str], shown: Sequence[str], left_out: int
) -> Iterator[str]:
    if num_actors > len(picked):
        yield f"shows {len(picked)} of {num_actors:,} actors"
    idle = [actor for actor in picked if actor not in shown and role_of(actor) != "server"]
    if idle:
        roles = {role_of(actor) for actor in idle}
        noun = roles.pop() if len(roles) == 1 else "actor"
        who = idle[0] if len(idle) == 1 else count(len(idle), noun)
        yield f"not shown, idle in this window: {who}"
    if left_out:
        yield f"shows the first {MAX_SLICES:,} slices of this window, {left_out:,} are left out"


def _headings(
    sheet: Page, summary: dict[str, Any], manifest: dict[str, Any], picture: Picture
) -> None:
    total = summary["num_steps"]
    part = count(total, "step")
    if picture.num_steps < total:
        part = f"the first {picture.num_steps} of {part}"
    sheet.write(MARGIN, 0.2, f"{summary['name']}: {part}", fontsize=13)
    replaced = wording.stand_in(summary)
    about = [wording.setup(manifest["scenario"]), *([replaced] if replaced else [])]
    sheet.write(MARGIN, 0.52, " · ".join(about), color=GREY)


def _draw_rows(sheet: Page, picture: Picture, summary: dict[str, Any]) -> None:
    height = len(picture.rows) * picture.row_height
    width = WIDTH - MARGIN - NAMES - GAP - BUSY - MARGIN
    box = Box(MARGIN + NAMES, picture.top, width, height)
    axes = sheet.axes(box)
    unit = time_unit(picture.end)
    canvas = gantt.Canvas(axes, unit, points=width * 72 / unit.of(picture.end))
    gantt.draw(canvas, picture.rows, picture.end)
    sheet.key(picture.key, MARGIN, HEADER)
    busy = sheet.axes(Box(box.left + width + GAP, box.top, BUSY, height))
    gantt.draw_busy(busy, picture.actors, summary.get("utilisation") or {})
    if any(row.is_cut_at(picture.end) for row in picture.rows):
        gantt.mark_end(axes, unit.of(picture.end), f"the horizon cuts at {human_time(picture.end)}")


def _draw_blame(sheet: Page, summary: dict[str, Any]) -> None:
    parts, makespan = wording.blame(summary), summary.get("makespan_s")
    if not parts or not makespan:
        return
    top = sheet.height - BLAME - MARGIN + 0.15
    title = f"what set the pace: the critical path of the whole run, {human_time(makespan)}"
    sheet.write(MARGIN, top, title)
    axes = sheet.axes(Box(MARGIN, top + 0.27, WIDTH - 2 * MARGIN, 0.26))
    axes.set_axis_off()
    axes.set_xlim(0, makespan)
    left = 0.0
    for part, seconds in parts:
        axes.barh(0, seconds, left=left, color=PART_COLOUR[part], edgecolor="white", lw=0.8)
        left += seconds
    sizes = [f"{part} {human_time(s)} ({percent(s / makespan)})" for part, s in parts]
    named = zip(sizes, parts, strict=True)
    entries = [(text, PART_COLOUR[part], "") for text, (part, _) in named]
    sheet.key(key_rows(entries, WIDTH - 2 * MARGIN), MARGIN, top + 0.65)
