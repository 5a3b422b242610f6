"""Numbers of a run, folded from its spans while they stream by."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mobisim.report.blame import Blame, BlameFold
from mobisim.report.round_blame import round_blame
from mobisim.span import (
    CARRYING_KINDS,
    DEVICE,
    DOWN,
    DOWNLINK,
    JOINT,
    KINDS,
    LATENCY,
    MERGE,
    PAUSE,
    QUEUE,
    REPLY,
    SERVER,
    STEP,
    TRANSFER,
    UPDATE,
    UPLINK,
    WAIT,
    WORK_KINDS,
    Block,
    Row,
    SpanColumns,
)
from mobisim.world import World

NUM_ROLES = 5


class BacklogFold:
    """The most messages that ever waited at once: on each device, and at the server.

    A message is on the device from when it is made until its last byte has left. That queue is
    first come first served, so when the spans of a message come by, the departures of all those
    before it are known. So may the server's be; of another discipline's, who joined when is known
    only in the end, and takes 16 bytes for each mini-batch that waited.
    """

    def __init__(self, world: World) -> None:
        self.roles = world.actors.roles.tolist()
        count = world.actors.num_devices
        self.made = [-1.0] * count
        self.lines = [_Line() for _ in range(count)]
        first_come = world.discipline == "first-come"
        self.server: _Line | _Crowd = _Line() if first_come else _Crowd()

    @property
    def server_peak(self) -> int:
        """The most mini-batches that ever waited at the server."""
        return self.server.peak

    def add(self, rows: list[Row]) -> None:
        """Follow both queues through some more spans."""
        for row in rows:
            kind = row[0]
            if kind == TRANSFER:
                self._sent(row)
            elif kind == QUEUE:
                if self.roles[row[1]] == UPLINK:
                    self.made[row[4]] = row[2]
                else:
                    self.server.add(row[2], row[3])

    def _sent(self, row: Row) -> None:
        device = row[4]
        made = self.made[device] if self.made[device] >= 0 else row[2]
        self.made[device] = -1.0
        self.lines[device].add(made, row[3])

    @property
    def device_peaks(self) -> list[int]:
        """The most messages that ever waited on each device."""
        return [line.peak for line in self.lines]


class _Line:
    """The most that ever waited in a queue that is left in the order in which it is joined."""

    __slots__ = ("departures", "peak")

    def __init__(self) -> None:
        self.departures: deque[float] = deque()
        self.peak = 0

    def add(self, joins: float, leaves: float) -> None:
        """One that waited; in the order of leaving."""
        departures = self.departures
        while departures and departures[0] <= joins:
            departures.popleft()
        departures.append(leaves)
        self.peak = max(self.peak, len(departures))


class _Crowd:
    """The most that ever waited in a queue that is left in any order."""

    def __init__(self) -> None:
        self.joined, self.left = array("d"), array("d")

    def add(self, joins: float, leaves: float) -> None:
        """One that waited."""
        self.joined.append(joins)
        self.left.append(leaves)

    @property
    def peak(self) -> int:
        """Of those who left at the instant of a joining, none is counted."""
        gone = np.searchsorted(np.sort(self.left), np.sort(self.joined), side="right")
        return int((np.arange(1, len(gone) + 1) - gone).max(initial=0))


@dataclass(frozen=True)
class Totals:
    """What a run comes to.

    Shapes: `seconds` is [kinds, roles], summed over spans; `busy_s`, work only, and
    `carried_bytes`, those of cut transfers included, are [actors]; `stepped`, how often each
    distinct mini-batch was learned from, is [mini-batches of all groups].
    """

    start: float
    end: float
    num_spans: int
    num_steps: int
    num_learned: int  # mini-batches that were stepped, alone or together; with rounds, steps
    num_cut: int  # by the horizon
    num_lost: int  # cut by what failed
    lost_s: float
    lost_bytes: int
    num_restarts: int
    uplink_payload_bytes: int
    num_transfers: int
    seconds: NDArray[np.float64]
    busy_s: NDArray[np.float64]
    carried_bytes: NDArray[np.int64]
    device_backlog: NDArray[np.int64]
    server_backlog: int
    blame: Blame
    roles: NDArray[np.int8]
    stepped: NDArray[np.int64]

    @property
    def uplink_bytes(self) -> int:
        """Bytes that all uplinks carried."""
        return int(self.carried_bytes[self.roles == UPLINK].sum())

    @property
    def downlink_bytes(self) -> int:
        """Bytes that all downlinks carried."""
        return int(self.carried_bytes[self.roles == DOWNLINK].sum())

    @property
    def makespan_s(self) -> float:
        """Last end minus first start."""
        return self.end - self.start

    def _per_step(self, kind: int, role: int) -> float:
        return float(self.seconds[kind, role]) / max(self.num_learned, 1)

    def _per_message(self, kind: int, role: int) -> float:
        return float(self.seconds[kind, role]) / max(self.num_transfers, 1)

    @property
    def step_breakdown_s(self) -> dict[str, float]:
        """Mean seconds per mini-batch by what they were spent on.

        Queueing for the uplink and latency are means per message: with layer granularity the
        messages of a mini-batch wait side by side.
        """
        return {
            **{kind: self._anywhere(kind) for kind in ("forward", "encode", "backward")},
            "device_wait": self._per_step(WAIT, DEVICE),
            "device_pause": self._per_step(PAUSE, DEVICE),
            "uplink_queue": self._per_message(QUEUE, UPLINK),
            "transfer": self._anywhere("transfer"),
            "latency": self._per_message(LATENCY, UPLINK),
            "server_queue": self._per_step(QUEUE, SERVER),
            **{kind: self._anywhere(kind) for kind in ("decode", "side_forward", "step")},
            **self._replies,
            **self._rounds,
        }

    @property
    def down_s(self) -> float:
        """How long the server was down."""
        return float(self.seconds[DOWN, SERVER])

    @property
    def _replies(self) -> dict[str, float]:
        """What devices waited for, where they do."""
        if not self.seconds[REPLY].any():
            return {}
        return {
            "reply": self._anywhere("reply"),
            "reply_latency": self._per_step(LATENCY, DOWNLINK),
        }

    @property
    def _rounds(self) -> dict[str, float]:
        """What rounds are made of besides, where there are any: in the mean of these."""
        if not self.seconds[MERGE].any():
            return {}
        kinds = ("download", "update", "merge")
        return {kind: self._anywhere(kind) for kind in kinds}

    def _anywhere(self, kind: str) -> float:
        return float(self.seconds[KINDS.index(kind)].sum()) / max(self.num_learned, 1)


class MetricsFold:
    """Adds spans up block by block."""

    def __init__(self, world: World) -> None:
        self.roles = world.actors.roles
        self.world = world
        self.stepped = np.zeros(world.num_sorts, np.int64)
        self.blame = BlameFold(world) if world.rounds is None else round_blame(world)
        # What ends a mini-batch's work.
        self.works_on = (STEP, JOINT) if world.rounds is None else (UPDATE,)
        self.backlog = BacklogFold(world)
        self.start, self.end = np.inf, 0.0
        self.counts = Counter[str]()
        self.lost_s = 0.0
        self.uplink_payload_bytes = 0
        self.group_of = world.group_of
        self.mtu_bytes = np.array([group.mtu_bytes for group in world.groups])
        self.overhead_bytes = np.array([group.overhead_bytes for group in world.groups])
        self.seconds = np.zeros(len(KINDS) * NUM_ROLES)
        self.busy_s = np.zeros(len(self.roles))
        self.carried_bytes = np.zeros(len(self.roles), dtype=np.int64)

    def add(self, block: Block) -> Self:
        """Add a block of spans."""
        columns = block.columns
        whole = ~columns.cut
        lasted = columns.end - columns.start
        self.start = min(self.start, float(columns.start.min()))
        self.end = max(self.end, float(columns.end.max()))
        self.counts["spans"] += len(columns)
        at_horizon = columns.cut & (columns.end == self.world.horizon_s)
        lost = columns.cut & ~at_horizon
        self.counts["cut"] += int(at_horizon.sum())
        self.counts["lost"] += int(lost.sum())
        self.counts["restarts"] += int((columns.kind == DOWN).sum())
        self.lost_s += float(lasted[lost].sum())
        steps = columns[(columns.kind == STEP) & whole]
        self.counts["steps"] += len(steps)
        self.counts["joint"] += int((columns.kind == JOINT).sum())
        worked = columns[np.isin(columns.kind, self.works_on) & whole]
        sorts = self.world.sorts(worked.device, worked.batch)
        self.stepped += np.bincount(sorts, minlength=len(self.stepped))
        sent = (columns.kind == TRANSFER) & whole
        self.counts["transfers"] += int(sent.sum())
        overhead = self._overhead(columns[sent])
        self.uplink_payload_bytes += int((columns.num_bytes[sent] - overhead).sum())
        carries = np.isin(columns.kind, CARRYING_KINDS)
        carried = columns[carries]
        self.counts["lost bytes"] += int(columns.num_bytes[carries & lost].sum())
        np.add.at(self.carried_bytes, carried.actor, carried.num_bytes)
        cell = columns.kind.astype(np.intp) * NUM_ROLES + self.roles[columns.actor]
        self.seconds += np.bincount(cell, lasted, self.seconds.size)
        works = np.isin(columns.kind, WORK_KINDS)
        self.busy_s += np.bincount(columns.actor[works], lasted[works], self.busy_s.size)
        self.blame.add(block.rows)
        self.backlog.add(block.rows)
        return self

    @property
    def num_learned(self) -> int:
        """Mini-batches that were stepped so far, alone or together; with rounds, steps."""
        return self.counts["steps"] + self.counts["joint"]

    def _overhead(self, transfers: SpanColumns) -> NDArray[np.int64]:
        """Bytes of packet overhead in each transfer: a packet is full but for the last."""
        group = self.group_of[transfers.device]
        overhead = self.overhead_bytes[group]
        packets = -(-transfers.num_bytes // (self.mtu_bytes[group] + overhead))
        return np.asarray(packets * overhead)

    def totals(self) -> Totals:
        """The sums so far."""
        return Totals(
            start=self.start if np.isfinite(self.start) else 0.0,
            end=self.end,
            num_spans=self.counts["spans"],
            num_steps=self.counts["steps"],
            num_learned=self.num_learned,
            num_cut=self.counts["cut"],
            num_lost=self.counts["lost"],
            lost_s=self.lost_s,
            lost_bytes=self.counts["lost bytes"],
            num_restarts=self.counts["restarts"],
            uplink_payload_bytes=self.uplink_payload_bytes,
            num_transfers=self.counts["transfers"],
            seconds=self.seconds.reshape(len(KINDS), NUM_ROLES),
            busy_s=self.busy_s,
            carried_bytes=self.carried_bytes,
            roles=self.roles,
            stepped=self.stepped,
            device_backlog=np.array(self.backlog.device_peaks, dtype=np.int64),
            server_backlog=self.backlog.server_peak,
            blame=self.blame.final,
        )
