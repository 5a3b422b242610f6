"""Rows of mini-batches, grouped: what the invariants ask of each mini-batch as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mobisim.span import (
    BACKWARD,
    DECODE,
    DOWNLINK,
    ENCODE,
    FORWARD,
    KINDS,
    LATENCY,
    NONE,
    QUEUE,
    REPLY,
    SERVER,
    SIDE_FORWARD,
    STEP,
    TRANSFER,
    UPDATE,
    SpanColumns,
)
from mobisim.world import World

# The order in which the spans of one message may follow one another.
_STAGE = {
    FORWARD: 0,
    ENCODE: 1,
    QUEUE: 2,
    TRANSFER: 3,
    LATENCY: 4,
    DECODE: 6,
    SIDE_FORWARD: 7,
    BACKWARD: 7,
    STEP: 8,
    UPDATE: 8,
    REPLY: 9,
}
_SERVER_QUEUE_STAGE, STEP_STAGE, _REPLY_LATENCY_STAGE, _REPLIED_STAGE = 5, 8, 10, 11
_STAGES = np.array([_STAGE.get(code, NONE) for code in range(len(KINDS))], dtype=np.int64)
KEY_BITS, KEY_MASK = 40, (1 << 40) - 1  # a mini-batch's key: device above, number below
# Several workers may finish a device's mini-batches out of order, by far less than this.
_OUT_OF_ORDER = 100_000

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Jobs:
    """Rows of mini-batches, sorted by device, batch, tap and stage.

    Shapes: `key`, one number per mini-batch, and `stage` are [num_spans].
    """

    columns: SpanColumns
    key: NDArray[np.int64]
    stage: NDArray[np.int64]

    @classmethod
    def of(cls, rows: SpanColumns, world: World) -> Self:
        """The rows in order."""
        stage, role = _STAGES[rows.kind], world.actors.roles[rows.actor]
        stage[(rows.kind == QUEUE) & (role == SERVER)] = _SERVER_QUEUE_STAGE
        stage[(rows.kind == LATENCY) & (role == DOWNLINK)] = _REPLY_LATENCY_STAGE
        if world.replies:
            stage[rows.kind == BACKWARD] = _REPLIED_STAGE
        key = _key(rows.device, rows.batch)
        order = np.lexsort((stage, rows.tap, key))
        return cls(rows[order], key[order], stage[order])

    def __getitem__(self, index: NDArray[np.bool_]) -> Self:
        return type(self)(self.columns[index], self.key[index], self.stage[index])

    def complete(self, last: int) -> NDArray[np.bool_]:
        """Which rows belong to mini-batches whose last kind of span is among the rows."""
        return np.asarray(np.isin(self.key, self.key[self.columns.kind == last]), np.bool_)

    @cached_property
    def first(self) -> Index:
        """The first row of each mini-batch."""
        return np.flatnonzero(np.diff(self.key, prepend=NONE) != 0)

    @cached_property
    def same_message(self) -> NDArray[np.bool_]:
        """Which rows belong to the message of the row before."""
        same_tap = np.diff(self.columns.tap, prepend=np.int16(NONE)) == 0
        return np.asarray((np.diff(self.key, prepend=NONE) == 0) & same_tap, np.bool_)

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        """The sum over each mini-batch's rows."""
        return np.asarray(np.add.reduceat(values, self.first))

    def begun(self) -> NDArray[np.float64]:
        """When each mini-batch's first forward started."""
        start = np.where(self.columns.kind == FORWARD, self.columns.start, np.inf)
        return np.asarray(np.minimum.reduceat(start, self.first))

    def taken_up(self) -> NDArray[np.float64]:
        """When the server took each mini-batch up: out of its queue, else as it arrived.

        One that the server has kept whole is worked on at once.
        """
        queued = np.where(self.stage == _SERVER_QUEUE_STAGE, self.columns.end, -np.inf)
        left_queue = np.maximum.reduceat(queued, self.first)
        arrived, begun = self._arrived(), np.minimum.reduceat(self.columns.start, self.first)
        arrived = np.where(np.isfinite(arrived), arrived, begun)
        return np.where(np.isfinite(left_queue), left_queue, arrived)

    def _arrived(self) -> NDArray[np.float64]:
        """When the first message of each mini-batch arrived."""
        carried = np.isin(self.columns.kind, (TRANSFER, LATENCY)) & (self.stage < STEP_STAGE)
        message = np.flatnonzero(~self.same_message)
        landed = np.maximum.reduceat(np.where(carried, self.columns.end, -np.inf), message)
        landed[~np.isfinite(landed)] = np.inf  # the step belongs to no message
        job = np.searchsorted(message, self.first)
        return np.asarray(np.minimum.reduceat(landed, job))


def _key(device: NDArray[Any], batch: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray((device.astype(np.int64) << KEY_BITS) + batch, np.int64)


class Served:
    """When the server took up mini-batches, kept as long as a forward may refer to them."""

    def __init__(self, world: World) -> None:
        self.run_ahead = np.array([group.run_ahead for group in world.groups])[world.group_of]
        self.num_batches = world.batches_of
        self.key = np.zeros(0, np.int64)
        self.taken = np.zeros(0)
        # Forwards whose reference is not known yet: another worker may still be at it.
        self.open_key = np.zeros(0, np.int64)
        self.open_begun = np.zeros(0)

    def add(
        self, key: NDArray[np.int64], begun: NDArray[np.float64], taken: NDArray[np.float64]
    ) -> int | None:
        """Learn of finished mini-batches; the key of one whose forward began too early, or None."""
        self._remember(key, taken)
        key, begun = np.append(self.open_key, key), np.append(self.open_begun, begun)
        ahead = self.run_ahead[key >> KEY_BITS]
        bound = (key & KEY_MASK) >= ahead
        key, begun, wanted = key[bound], begun[bound], (key - ahead)[bound]
        at = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        known = self.key[at] == wanted
        self.open_key, self.open_begun = key[~known], begun[~known]
        wrong = np.flatnonzero(known & (begun < self.taken[at]))
        self._prune()
        return int(key[wrong[0]]) if len(wrong) else None

    def _remember(self, key: NDArray[np.int64], taken: NDArray[np.float64]) -> None:
        self.key, self.taken = np.append(self.key, key), np.append(self.taken, taken)
        order = np.argsort(self.key, kind="stable")
        self.key, self.taken = self.key[order], self.taken[order]

    def _prune(self) -> None:
        """Forget what no later forward can refer to."""
        device, batch = self.key >> KEY_BITS, self.key & KEY_MASK
        latest = np.full(len(self.run_ahead), NONE, dtype=np.int64)
        np.maximum.at(latest, device, batch)
        refers = batch + self.run_ahead[device]
        kept = (refers > latest[device] - _OUT_OF_ORDER) & (refers < self.num_batches[device])
        self.key, self.taken = self.key[kept], self.taken[kept]
