"""Spans: the one contract between the rooms, as rows and as columns.

A span is a piece of work that one actor did, or that one payload or actor waited, from `start` to
`end` in simulated seconds. Rows come out of the simulator ordered by the moment they end; ties keep
the order in which the simulator handled them. Readers take them in blocks of columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

NONE = -1  # where a column has nothing to say; null in the published tables

# What each kind of span is, as the reference tells it.
MEANINGS = {
    "forward": "the device runs the frozen backbone",
    "encode": "the device quantises and packs activations",
    "transfer": "the uplink carries a payload",
    "decode": "a server worker unpacks a payload",
    "side_forward": "a worker runs the side network's share of one tap (layer granularity)",
    "step": "a worker trains: forward (batch granularity), backward and the update; on a device "
    "that trains by itself, the update alone; with rounds, what ends an average",
    "download": "the downlink carries what was learned to the device",
    "wait": "an actor has nothing to do because something upstream is not there yet",
    "queue": "a payload waits for an actor that is busy",
    "latency": "a payload travels and occupies nobody",
    "pause": "a device rests: its battery is low, or it is away",
    "backward": "the device goes back through what it trains, once it has a reply it waits for",
    "reply": "the downlink carries what the device waits for after a mini-batch",
    "down": "the server restarts",
    "update": "the device updates what it trains in a round",
    "merge": "a worker adds up what a device has learned in a round",
    "joint": "a mini-batch is learned from in the step of another, whose span follows",
}
KINDS = tuple(MEANINGS)
KIND_CODE = {kind: code for code, kind in enumerate(KINDS)}
(
    FORWARD, ENCODE, TRANSFER, DECODE, SIDE_FORWARD, STEP, DOWNLOAD, WAIT, QUEUE, LATENCY, PAUSE,
    BACKWARD, REPLY, DOWN, UPDATE, MERGE, JOINT,
) = range(len(KINDS))  # fmt: skip
# Kinds that occupy their actor: no two of these may overlap on one actor.
WORK_KINDS = (
    FORWARD, ENCODE, TRANSFER, DECODE, SIDE_FORWARD, STEP, DOWNLOAD, BACKWARD, REPLY, UPDATE, MERGE,
)  # fmt: skip
# Kinds that say how many bytes their link carried.
CARRYING_KINDS = (TRANSFER, DOWNLOAD, REPLY)
# What ends the way of what a device sent.
INGESTS = (MERGE, STEP, JOINT)

Row = tuple[int, int, float, float, int, int, int, int, int, int, bool]  # a Span's fields, bare


class Span(NamedTuple):
    """One row. `kind` and `actor` are codes into KINDS and into the world's list of actors."""

    kind: int
    actor: int
    start: float
    end: float
    device: int
    batch: int
    tap: int
    num_bytes: int
    version_read: int
    version_written: int
    cut: bool


@dataclass(frozen=True)
class SpanColumns:
    """A block of consecutive spans, one array per column.

    Shapes: each array is [num_spans]. Times in seconds, NONE where a column is not filled.
    """

    kind: NDArray[np.int8]
    actor: NDArray[np.int32]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    device: NDArray[np.int32]
    batch: NDArray[np.int64]
    tap: NDArray[np.int16]
    num_bytes: NDArray[np.int64]
    version_read: NDArray[np.int64]
    version_written: NDArray[np.int64]
    cut: NDArray[np.bool_]

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Self:
        """The columns of `rows`."""
        columns = zip(*rows, strict=True) if rows else [()] * len(DTYPES)
        return cls(*(np.array(c, dtype=d) for c, d in zip(columns, DTYPES, strict=True)))

    @classmethod
    def concatenate(cls, blocks: Iterable[SpanColumns]) -> Self:
        """One block of all of `blocks`, in their order."""
        parts = [*blocks, cls.from_rows([])]
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    def spans(self) -> Iterator[Span]:
        """The block row by row."""
        columns = (getattr(self, f.name).tolist() for f in fields(self))
        return map(Span._make, zip(*columns, strict=True))


DTYPES: tuple[type[np.generic], ...] = (
    np.int8,
    np.int32,
    np.float64,
    np.float64,
    np.int32,
    np.int64,
    np.int16,
    np.int64,
    np.int64,
    np.int64,
    np.bool_,
)


class Block:
    """Consecutive spans, as rows and as columns."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @cached_property
    def columns(self) -> SpanColumns:
        """The rows as columns."""
        return SpanColumns.from_rows(self.rows)


@dataclass(frozen=True)
class Actors:
    """The names of a world's actors and their codes, in the order in which they start.

    Devices first, then uplinks, downlinks, the server's queue, its workers.
    """

    num_devices: int
    num_workers: int

    def uplink(self, device: int) -> int:
        """The code of a device's uplink."""
        return self.num_devices + device

    def downlink(self, device: int) -> int:
        """The code of a device's downlink."""
        return 2 * self.num_devices + device

    @property
    def server(self) -> int:
        """The code of the server, in whose queue payloads wait."""
        return 3 * self.num_devices

    def worker(self, index: int) -> int:
        """The code of a server worker."""
        return self.server + 1 + index

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each code."""
        devices = range(self.num_devices)
        return (
            *(f"device-{i}" for i in devices),
            *(f"uplink-{i}" for i in devices),
            *(f"downlink-{i}" for i in devices),
            "server",
            *(f"server/worker-{i}" for i in range(self.num_workers)),
        )

    @cached_property
    def roles(self) -> NDArray[np.int8]:
        """The role of each code: 0 device, 1 uplink, 2 downlink, 3 server, 4 worker."""
        lengths = [self.num_devices] * 3 + [1, self.num_workers]
        return np.repeat(np.arange(5, dtype=np.int8), lengths)


DEVICE, UPLINK, DOWNLINK, SERVER, WORKER = range(5)
