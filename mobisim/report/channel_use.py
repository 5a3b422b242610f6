"""What links that vary and cells carried, held against the most that they can have carried."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobisim.channel import Course, course
from mobisim.span import TRANSFER, Span, SpanColumns
from mobisim.units import BITS_PER_BYTE
from mobisim.world import World

_KEPT = 1000  # disjoint times of a cell; a flow that began before all of them is held to less
_ROUNDING = 1e-9  # of a cell's level
_ROUNDING_BITS = 1e-6  # of room between two instants; the instants' own rounding is in the room


@dataclass
class Busy:
    """What one direction of a link has carried since it was last idle."""

    course: Course
    since: float = 0.0
    until: float = -1.0
    num_bits: int = 0

    def carries(self, start: float, end: float, num_bytes: int) -> bool:
        """Add a transfer: whether all since the link was last idle fits between."""
        if start > self.until:
            self.since, self.num_bits = start, 0
        self.until = end
        self.num_bits += num_bytes * BITS_PER_BYTE
        return self.num_bits <= self.course.room_bits(self.since, end) + _ROUNDING_BITS


class ChannelUse:
    """Follows every direction that varies, in memory that follows their number."""

    def __init__(self, world: World) -> None:
        self.world = world
        ups = [group.uplink is not None for group in world.groups]
        downs = [group.downlink is not None for group in world.groups]
        self.up, self.down = np.array(ups)[world.group_of], np.array(downs)[world.group_of]
        self.busy: dict[int, Busy] = {}

    def varies(self, moved: SpanColumns) -> NDArray[np.bool_]:
        """Which transfers and downloads went over a link that varies."""
        ups = moved.kind == TRANSFER
        found: NDArray[np.bool_] = np.where(ups, self.up[moved.device], self.down[moved.device])
        return found

    def fine(self, moved: SpanColumns) -> NDArray[np.bool_]:
        """Which transfers and downloads can have been carried; true for links of constant rate."""
        fine = np.ones(len(moved), dtype=np.bool_)
        index = np.flatnonzero(self.varies(moved))
        for at, span in zip(index.tolist(), moved[index].spans(), strict=True):
            fine[at] = self._busy(span).carries(span.start, span.end, span.num_bytes)
        return fine

    def _busy(self, span: Span) -> Busy:
        if span.actor not in self.busy:
            group = self.world.groups[self.world.group_of[span.device]]
            channel = group.uplink if span.kind == TRANSFER else group.downlink
            assert channel is not None
            self.busy[span.actor] = Busy(course(channel, self.world.seed, span.device))
        return self.busy[span.actor]


class CellUse:
    """Follows what each cell carried while it was not empty, up and down apart."""

    def __init__(self, world: World) -> None:
        self.group_of = world.group_of
        self.cells = np.array([-1 if g.cell is None else g.cell for g in world.groups])
        self.ups = [cell.uplink_bits_per_s for cell in world.cells]
        self.downs = [cell.downlink_bits_per_s for cell in world.cells]
        self.busy: dict[tuple[int, bool], deque[tuple[float, float, int]]] = {}

    def fine(self, moved: SpanColumns) -> NDArray[np.bool_]:
        """Which transfers and downloads can have been carried; true for links in no cell."""
        fine = np.ones(len(moved), dtype=np.bool_)
        cell = self.cells[self.group_of[moved.device]]
        index = np.flatnonzero(cell >= 0)
        for at, span in zip(index.tolist(), moved[index].spans(), strict=True):
            fine[at] = self._carries(int(cell[at]), span)
        return fine

    def _carries(self, cell: int, span: Span) -> bool:
        """Whether all that overlaps, together with this flow, fits between its begin and end."""
        up = span.kind == TRANSFER
        busy = self.busy.setdefault((cell, up), deque(maxlen=_KEPT))
        start, bits = span.start, span.num_bytes * BITS_PER_BYTE
        while busy and busy[-1][1] > span.start:
            earlier = busy.pop()
            start, bits = min(start, earlier[0]), bits + earlier[2]
        busy.append((start, span.end, bits))
        rate = (self.ups if up else self.downs)[cell]
        lasted = (span.end - start) * (1 + _ROUNDING) + 16 * np.spacing(span.end)
        return bool(bits <= rate * lasted)
