"""The table of `mobisim fit`: methods against a device's memory, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mobisim.units import human_size

WIDTH = 80
GB = 1e9
# Headings of the parts, in the order of the columns; what a method has none of shows as a dash.
PARTS = {
    "weights": "model",
    "gradients": "grads",
    "optimizer": "states",
    "stored": "kept",
    "transient": "block",
    "queue": "queue",
    "runtime": "base",
}
LEGEND = (
    "In GB. kept: activations that the backward needs; block: those of one block, and what is "
    "held until it is sent; queue: payloads waiting, as many as the run-ahead allows; base: "
    "system and framework."
)
BASIS = "No dropout; AdamW unless the scenario says otherwise."
TIME = (
    "time: seconds of the device for a mini-batch, with fused attention; empty where its profile "
    "does not tell."
)
TRAINS = "What trains has gradients at the activations' precision"
WIDE = f"{TRAINS}, and optimiser states in fp32."
TWICE = "Blocks keep their inputs only and are computed again in the backward (checkpointing)."
MIXED = f"{TRAINS}, and optimiser states and a copy in fp32."


@dataclass(frozen=True)
class FitRow:
    """A method's bytes, part by part, and the device's seconds for a mini-batch where known."""

    name: str
    parts: Mapping[str, int]
    device_s: float | None = None

    @property
    def peak(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class FitTable:
    """The methods on one device, at one shape."""

    scenario: str
    model: str
    device: str
    precision: str
    capacity: int
    batch_size: int
    sequence_length: int
    rows: tuple[FitRow, ...]
    checkpointing: bool = False
    only_head_trains: tuple[str, ...] = ()
    attention: str = "fused"


def print_fit(found: FitTable, console: Console) -> None:
    """Print the table and what it rests on, in at most 80 columns."""
    page = Group(title(found), Text(), _table(found), Text(), *_notes(found))
    console.print(page, width=min(WIDTH, console.width), highlight=False)


def _notes(found: FitTable) -> list[Text]:
    notes = [
        f"{name}: nothing of this model itself trains, at most the head"
        for name in found.only_head_trains
    ]
    basis = f"{found.attention.capitalize()} attention. {BASIS}"
    legend = f"{LEGEND} {basis} {WIDE if found.precision == 'fp32' else MIXED}"
    if any(row.device_s is not None for row in found.rows):
        legend += f" {TIME}"
    if found.checkpointing:
        legend += f" {TWICE}"
    return [*(Text(note, "yellow") for note in notes), Text(legend, "dim")]


def title(found: FitTable) -> Text:
    """What is asked: model, shape, device, precision and memory."""
    shape = f"{found.batch_size} x {found.sequence_length} tokens"
    text = Text(f"{found.model}, mini-batches of {shape}", "bold")
    text.append(f"\n{found.device} at {found.precision}, {human_size(found.capacity)} of memory")
    return text


def _table(found: FitTable) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in (*PARTS.values(), "peak", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for row in found.rows:
        table.add_row(*_cells(row, found.capacity))
    return table


def _cells(row: FitRow, capacity: int) -> list[str | Text]:
    parts = [_size(row.parts.get(part, 0)) for part in PARTS]
    numbers = *parts, _size(row.peak), _seconds(row.device_s)
    return [row.name, *numbers, verdict(row.peak, capacity)]


def _seconds(device_s: float | None) -> str:
    if device_s is None:
        return ""
    return f"{device_s:.0f}" if device_s >= 99.5 else f"{device_s:.3g}"[:4]  # noqa: PLR2004


def verdict(peak: int, capacity: int) -> Text:
    """Whether it fits, and how much is free or missing."""
    room = abs(capacity - peak)
    if peak <= capacity:
        return Text(f"{_size(room)} free", "green")
    return Text(f"{_size(room)} short", "bold red")


def _size(num_bytes: int) -> str:
    if not num_bytes:
        return "-"
    return f"{num_bytes / GB:.2f}" if num_bytes >= 0.005 * GB else "<0.01"
