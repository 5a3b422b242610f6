"""The stragglers picture: when devices are through, and what each of them waited for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mobisim.report import wording
from mobisim.report.figure import GREY, KEY_ROW, KIND_COLOUR, PALE, Box, key_rows, page, time_unit
from mobisim.report.tables import read_spans
from mobisim.span import (
    DEVICE,
    INGESTS,
    LATENCY,
    NONE,
    PAUSE,
    QUEUE,
    SERVER,
    TRANSFER,
    UPLINK,
    WAIT,
    WORK_KINDS,
    Actors,
    SpanColumns,
)
from mobisim.units import human_time

WIDTH, LEFT, BAR_WIDTH = 10.2, 3.9, 5.0
MAX_LABEL = 46  # characters
ROW, TOP, BELOW = 0.3, 0.95, 0.95
MAX_NAMED = 24  # devices that get a bar of their own
# What a device's time goes into, one after the other; hatches tell apart in grey.
PARTS = {
    "computes": (KIND_COLOUR["forward"], ""),
    "waits to go on": (KIND_COLOUR["wait"], "//"),
    "away or resting": (KIND_COLOUR["pause"], ".."),
    "sends the last": (KIND_COLOUR["transfer"], "\\\\"),
    "in line at the server": (KIND_COLOUR["queue"], "xx"),
    "is served": (KIND_COLOUR["step"], ""),
}


@dataclass(frozen=True)
class Delays:
    """Seconds of each device by PARTS, which add up to when its last mini-batch was stepped.

    Shapes: `seconds` is [parts, devices].
    """

    seconds: NDArray[np.float64]

    @property
    def finished(self) -> NDArray[np.float64]:
        """When each device was through."""
        return np.asarray(self.seconds.sum(axis=0))


class DelaysFold:
    """Adds up what the devices of a run did and waited for."""

    def __init__(self, actors: Actors) -> None:
        self.roles, count = actors.roles, actors.num_devices
        self.own = np.zeros((3, count))  # work, waits and pauses on the device
        self.done, self.arrived, self.taken, self.stepped = np.zeros((4, count))

    def add(self, columns: SpanColumns) -> None:
        """Add a block of spans."""
        columns = columns[(columns.device != NONE) & (columns.batch != NONE)]  # no delivery
        role, lasted = self.roles[columns.actor], columns.end - columns.start
        on_device = role == DEVICE
        sorts = (np.isin(columns.kind, WORK_KINDS), columns.kind == WAIT, columns.kind == PAUSE)
        for part, sort in enumerate(sorts):
            mine = on_device & sort
            self.own[part] += np.bincount(columns.device[mine], lasted[mine], self.own.shape[1])
        sent = (role == UPLINK) & np.isin(columns.kind, (TRANSFER, LATENCY))
        taken = (role == SERVER) & (columns.kind == QUEUE)
        marks = ((self.done, on_device), (self.arrived, sent), (self.taken, taken))
        for latest, which in (*marks, (self.stepped, np.isin(columns.kind, INGESTS))):
            np.maximum.at(latest, columns.device[which], columns.end[which])

    @property
    def delays(self) -> Delays:
        """What they come to."""
        arrived = np.maximum(self.arrived, self.done)
        taken = np.maximum(self.taken, arrived)
        stepped = np.maximum(self.stepped, taken)
        tail = np.diff([self.done, arrived, taken, stepped], axis=0)
        return Delays(np.concatenate([self.own, tail]))


@dataclass(frozen=True)
class Bar:
    """One line of the picture."""

    label: str
    seconds: NDArray[np.float64]
    is_mean: bool = False


def read_delays(place: Path, names: Sequence[str]) -> Delays:
    """What the devices of a published run waited for."""
    num_devices = sum(name.startswith("device-") for name in names)
    fold = DelaysFold(Actors(num_devices, len(names) - 3 * num_devices - 1))
    for columns in read_spans(place / "spans.parquet"):
        fold.add(columns)
    return fold.delays


def draw_stragglers(place: Path, out: Path) -> bool:
    """Draw what devices waited for until their last step; False where nothing was simulated."""
    summary = json.loads((place / "summary.json").read_text("utf-8"))
    manifest = json.loads((place / "manifest.json").read_text("utf-8"))
    if not summary["num_steps"]:
        return False
    bars = make_bars(read_delays(place, manifest["actors"]), manifest["scenario"]["devices"])
    used = [number for number in range(len(PARTS)) if any(bar.seconds[number] for bar in bars)]
    entries = [(name, *look) for name, look in PARTS.items()]
    rows = key_rows([entries[number] for number in used], WIDTH - 0.6)
    top = TOP + len(rows) * KEY_ROW + 0.15
    with page(WIDTH, top + len(bars) * ROW + BELOW) as sheet:
        title = "what devices wait for until their last mini-batch is stepped"
        several = " · of several the mean" * any(bar.is_mean for bar in bars)
        sheet.write(0.3, 0.2, f"{summary['name']}: {title}", fontsize=13)
        sheet.write(0.3, 0.52, f"server: {_server(manifest)}{several}", color=GREY)
        sheet.key(rows, 0.3, TOP)
        axes = sheet.axes(Box(LEFT, top, BAR_WIDTH, len(bars) * ROW))
        _draw(axes, bars)
        sheet.save(out)
    return True


def make_bars(delays: Delays, groups: Sequence[dict[str, Any]]) -> list[Bar]:
    """A bar for each device of a small fleet, the first through on top; else two for each group."""
    counts = [group.get("count", 1) for group in groups]
    labels = [_name(group) for group in groups]
    if sum(counts) <= MAX_NAMED:
        owners = np.repeat(np.arange(len(groups)), counts)
        order = np.argsort(delays.finished, kind="stable").tolist()
        return [Bar(f"device-{i}, {labels[owners[i]]}", delays.seconds[:, i]) for i in order]
    bounds = np.cumsum([0, *counts]).tolist()
    ranges = zip(labels, bounds, bounds[1:], strict=False)
    return [bar for label, first, last in ranges for bar in _of_group(label, delays, first, last)]


def _of_group(label: str, delays: Delays, first: int, last: int) -> Iterable[Bar]:
    seconds, finished = delays.seconds[:, first:last], delays.finished[first:last]
    yield Bar(f"{last - first} {wording.TIMES} {label}", seconds.mean(axis=1), is_mean=True)
    yield Bar("the last of these", seconds[:, int(np.argmax(finished))])


def _server(manifest: dict[str, Any]) -> str:
    return wording.setup(manifest["scenario"]).rpartition(" · server ")[2]


def _name(group: dict[str, Any]) -> str:
    return wording.group(group | {"count": 1})


def _draw(axes: Axes, bars: Sequence[Bar]) -> None:
    longest = max(float(bar.seconds.sum()) for bar in bars)
    unit = time_unit(longest)
    for place, bar in enumerate(bars):
        left = 0.0
        for (colour, hatch), seconds in zip(PARTS.values(), bar.seconds.tolist(), strict=True):
            axes.barh(
                place, unit.of(seconds), 0.74, left=unit.of(left), color=colour, hatch=hatch,
                edgecolor="white", lw=0.5,
            )  # fmt: skip
            left += seconds
        axes.annotate(
            human_time(left), (unit.of(left), place), xytext=(6, 0), textcoords="offset points",
            va="center",
        )  # fmt: skip
    axes.set_xlim(0, unit.of(longest))
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_yticks(range(len(bars)), [_shortened(bar.label) for bar in bars])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"simulated time ({unit.name})")


def _shortened(label: str) -> str:
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
