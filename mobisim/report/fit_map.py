"""The picture of `mobisim fit`: where each method leaves the device's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mobisim.report.figure import GREY, INK, Box, Page, page
from mobisim.report.fit_table import FitTable
from mobisim.units import human_size

FITS, BEYOND, HATCH = "#2b6cb0", "#ececec", "#c4c4c4"
LEFT, TOP, ACROSS, DOWN, GAP = 0.95, 1.35, 1.32, 1.2, 0.17  # inches
TITLES = {
    "mobillm": "MobiLLM",
    "full": "full fine-tuning",
    "lora": "LoRA",
    "bitfit": "BitFit",
    "adapters": "adapters",
    "lst": "LST",
    "pae-mobillm": "PAE MobiLLM",
    "fed-mobillm": "Fed MobiLLM",
    "server-only": "server only",
    "split-lora": "split LoRA",
    "fwdllm": "FwdLLM",
    "fedavg-lora": "FedAvg LoRA",
    "fedavg-adapters": "FedAvg adapters",
    "splitfed-lora": "SplitFed LoRA",
    "hetlora": "HetLoRA",
    "fedbuff-lora": "FedBuff LoRA",
    "fed-fwdllm": "federated FwdLLM",
}


@dataclass(frozen=True)
class FitMap:
    """The largest mini-batch that fits, by (precision, method), for each of `lengths`.

    Where `max_batch` fits, more may.
    """

    table: FitTable
    lengths: tuple[int, ...]
    precisions: tuple[str, ...]
    largest: Mapping[tuple[str, str], Sequence[int]]
    max_batch: int

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the table."""
        return [row.name for row in self.table.rows]


def draw_fit(found: FitMap, out: Path) -> None:
    """Draw a panel for each method and precision to `out`."""
    width = LEFT + len(found.methods) * (ACROSS + GAP) + 0.1
    height = TOP + len(found.precisions) * (DOWN + GAP) + 0.45
    with page(width, height) as sheet:
        _headings(sheet, found)
        for row, precision in enumerate(found.precisions):
            for column, name in enumerate(found.methods):
                box = Box(LEFT + column * (ACROSS + GAP), TOP + row * (DOWN + GAP), ACROSS, DOWN)
                _panel(sheet.axes(box), found, precision, name)
        sheet.save(out)


def _headings(sheet: Page, found: FitMap) -> None:
    table = found.table
    size = human_size(table.capacity)
    sheet.write(0.2, 0.15, f"What fits into the {size} of {table.device}?", fontsize=13)
    shape = f"{table.batch_size} samples of {table.sequence_length} tokens"
    twice = ", with checkpointing" if table.checkpointing else ""
    about = f"{table.model}{twice}, by precision of the weights; the dot is the scenario's {shape}"
    sheet.write(0.2, 0.45, about, color=GREY)
    sheet.key([[("fits", FITS, ""), ("exceeds the memory", BEYOND, "////")]], 0.2, 0.78)
    for column, name in enumerate(found.methods):
        middle = LEFT + column * (ACROSS + GAP) + ACROSS / 2
        idle = " (no biases)" if name in table.only_head_trains else ""
        sheet.write(middle, TOP - 0.22, TITLES.get(name, name) + idle, ha="center")
    across = LEFT + len(found.methods) * (ACROSS + GAP) / 2
    sheet.write(across, sheet.height - 0.3, "sequence length, tokens", ha="center")
    down = TOP + len(found.precisions) * (DOWN + GAP) / 2
    sheet.write(0.12, down, "samples per mini-batch", rotation=90, va="center")


def _panel(axes: Axes, found: FitMap, precision: str, name: str) -> None:
    largest = found.largest[precision, name]
    axes.set_facecolor(BEYOND)
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(found.lengths[0], found.lengths[-1])
    axes.set_ylim(1, found.max_batch)
    far = axes.fill_between(found.lengths, 1, found.max_batch, facecolor=BEYOND, lw=0)
    far.set(hatch="////", edgecolor=HATCH)
    axes.fill_between(found.lengths, 1, [max(1, b) for b in largest], color=FITS, lw=0)
    axes.plot(found.lengths, [b or math.nan for b in largest], color=INK, lw=1.2)
    if not any(largest):
        _say(axes, "nowhere")
    _dot(axes, found.table)
    _ticks(axes, found, precision, name)


def _say(axes: Axes, words: str) -> None:
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 2.0}
    axes.text(0.5, 0.78, words, transform=axes.transAxes, ha="center", va="center", bbox=behind)


def _dot(axes: Axes, table: FitTable) -> None:
    place = ([table.sequence_length], [table.batch_size])
    axes.plot(*place, "o", ms=5, mfc="white", mec=INK, mew=1.1, clip_on=False)


def _ticks(axes: Axes, found: FitMap, precision: str, name: str) -> None:
    first, last = name == found.methods[0], precision == found.precisions[-1]
    for axis, marks, shown in (
        (axes.xaxis, [16, 64, 256, 1024], last),
        (axes.yaxis, [1, 4, 16, 64, 256], first),
    ):
        axis.set_major_locator(FixedLocator(marks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axis.set_tick_params(labelbottom=shown, labelleft=shown, labelsize=8, length=2.5)
    if first:
        own = " (its own)" if precision == found.table.precision else ""
        axes.set_ylabel(precision + own, fontsize=9, fontweight="bold" if own else "normal")
