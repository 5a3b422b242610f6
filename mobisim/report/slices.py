"""Slices: the spans that a picture or a trace shows, read lazily and within bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mobisim.span import KINDS, WORK_KINDS

MAX_SLICES = 200_000
MAX_ACTORS = 40
BLOCK_ROWS = 8_192

WORK = frozenset(KINDS[code] for code in WORK_KINDS)

_ROLES = ("device", "uplink", "downlink")
_OF_DEVICE = re.compile(r"(device|uplink|downlink)-(\d+)")
_DIGITS = re.compile(r"(\d+)")


class Slice(NamedTuple):
    """One span as it is drawn: names instead of codes, None where a column is not filled."""

    kind: str
    actor: str
    start: float
    end: float
    device: int | None
    batch: int | None
    tap: int | None
    num_bytes: int | None
    version_read: int | None
    version_written: int | None
    cut: bool


@dataclass(frozen=True)
class View:
    """What is to be seen of a span table: these actors or all, from `start` to `end` in seconds."""

    actors: tuple[str, ...] | None = None
    start: float = float("-inf")
    end: float = float("inf")

    def mask(self, batch: pa.RecordBatch) -> Any:
        """Which rows of `batch` are in view."""
        seen = pc.and_(
            pc.greater_equal(batch.column("end"), pa.scalar(self.start)),
            pc.less_equal(batch.column("start"), pa.scalar(self.end)),
        )
        if self.actors is None:
            return seen
        actors = batch.column("actor").cast(pa.string())
        return pc.and_(seen, pc.is_in(actors, value_set=pa.array(self.actors, pa.string())))

    def may_touch(self, group: pq.RowGroupMetaData) -> bool:
        """Whether a row group can hold a row in view, judged by its statistics alone."""
        _, first_start = _bounds(group, "start")
        last_end, _ = _bounds(group, "end")
        return last_end >= self.start and first_start <= self.end


def _bounds(group: pq.RowGroupMetaData, name: str) -> tuple[float, float]:
    """The greatest and the least value of a column, infinite where the file does not say."""
    columns = (group.column(index) for index in range(group.num_columns))
    statistics = next(c.statistics for c in columns if c.path_in_schema == name)
    if statistics is None or statistics.min is None or statistics.max is None:
        return float("inf"), float("-inf")
    return float(statistics.max), float(statistics.min)


def read_slices(path: Path, view: View) -> Iterator[Slice]:
    """The slices in view, ordered by their end."""
    for batch in _blocks(path, view, Slice._fields):
        yield from map(Slice._make, zip(*(c.to_pylist() for c in batch.columns), strict=True))


def count_slices(path: Path, view: View) -> int:
    """How many slices are in view."""
    return sum(batch.num_rows for batch in _blocks(path, view, ("actor", "start", "end")))


def _blocks(path: Path, view: View, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        groups = [
            index
            for index in range(file.num_row_groups)
            if view.may_touch(file.metadata.row_group(index))
        ]
        for batch in file.iter_batches(BLOCK_ROWS, row_groups=groups, columns=list(columns)):
            # A projection keeps the file's column order, whatever order was asked for.
            yield batch.filter(view.mask(batch)).select(list(columns))


def pick_actors(actors: Iterable[str], limit: int = MAX_ACTORS) -> tuple[str, ...]:
    """At most `limit` actors: devices with their links in order of number, then the server.

    Where not all fit, a quarter of the places go to the server and a device stays with its links;
    devices are taken evenly from the first to the last, so that groups of them are all seen.
    """
    names = sorted(actors, key=actor_rank)
    servers = [name for name in names if not _OF_DEVICE.fullmatch(name)]
    fleet = [name for name in names if _OF_DEVICE.fullmatch(name)]
    servers = servers[: max(limit // 4, limit - len(fleet))]
    return (*_whole_devices(fleet, limit - len(servers)), *servers)


def _whole_devices(fleet: Sequence[str], room: int) -> list[str]:
    crews = [list(crew) for _, crew in groupby(fleet, key=lambda name: actor_rank(name)[1])]
    for count in range(min(len(crews), room), 0, -1):
        picked = [name for at in _evenly(len(crews), count) for name in crews[at]]
        if len(picked) <= room:
            return picked
    return []


def _evenly(length: int, count: int) -> list[int]:
    """So many places of a list, the first and the last among them."""
    return [round(at * (length - 1) / max(count - 1, 1)) for at in range(count)]


def actor_rank(name: str) -> tuple[int, int, tuple[int | str, ...]]:
    """The sort key of an actor: devices before the server, numbers by value."""
    match = _OF_DEVICE.fullmatch(name)
    if match:
        return 0, int(match[2]), (_ROLES.index(match[1]),)
    parts = _DIGITS.split(name)
    return 1, 0, tuple(int(p) if p.isdigit() else p for p in parts)


def role_of(actor: str) -> str:
    """The part of the system that an actor belongs to: device, uplink, downlink or server."""
    match = _OF_DEVICE.fullmatch(actor)
    return match[1] if match else "server"


def device_of(actor: str) -> int | None:
    """The number of the device that an actor belongs to, None for the server's."""
    match = _OF_DEVICE.fullmatch(actor)
    return int(match[2]) if match else None
