"""The numbered invariants that every finished run is checked against.

They are checked on the spans alone, block by block, in memory that follows the mini-batches under
way and not the length of the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobisim.errors import InvariantError
from mobisim.report.channel_use import CellUse, ChannelUse
from mobisim.report.jobs import KEY_BITS, KEY_MASK, STEP_STAGE, Jobs, Served
from mobisim.report.presence import Presence
from mobisim.report.queue_order import QueueOrder
from mobisim.report.restarted import Restarted
from mobisim.report.round_checks import round_checks
from mobisim.report.together import Together, each_stepped
from mobisim.span import (
    BACKWARD,
    CARRYING_KINDS,
    DOWNLOAD,
    FORWARD,
    KINDS,
    NONE,
    PAUSE,
    REPLY,
    STEP,
    TRANSFER,
    UPDATE,
    WAIT,
    WORK_KINDS,
    Span,
    SpanColumns,
)
from mobisim.units import BITS_PER_BYTE
from mobisim.world import Batch, World

RULES = {
    1: "every mini-batch is forwarded, carried and answered where it is, and stepped exactly once",
    2: "the clock never runs backwards",
    3: "causes come before effects",
    4: "no actor does two things at a time",
    5: "no link carries more than its rate allows",
    6: "bytes sent are bytes received",
    7: "no size and no memory is negative",
    8: "no staleness is negative, and versions follow one another",
    9: "spans and summary agree",
    10: "the server's queue is left in the order of its discipline, a device's own in theirs",
    11: "no device begins a mini-batch while it is away",
    12: "no worker works while the server is down",
    13: "what has vanished neither works nor sends, and repeats no more than it lost",
    14: "a version is the average of what came before its round was over, each once and whole",
    15: "mini-batches are stepped together at one time, and no more of them than the server takes",
}

_ROUNDING = 1e-9  # of utilisations: sums over other blocks round otherwise


def _fail(number: int, actors: tuple[str, ...], columns: SpanColumns, row: Any) -> None:
    _fail_at(number, actors, next(columns[np.array([int(row)])].spans()))


def _fail_at(number: int, actors: tuple[str, ...], span: Span) -> None:
    values = span._asdict() | {"kind": KINDS[span.kind], "actor": actors[span.actor]}
    # An instant may be wrong in any way; elsewhere NONE has nothing to say.
    told = (k for k, value in values.items() if value != NONE or k in ("start", "end"))
    named = ", ".join(f"{name}={values[name]}" for name in told)
    raise InvariantError(number, RULES[number], f"span: {named}")


class InvariantFold:
    """Checks a stream of spans; the first breach raises InvariantError.

    Of a real run the ends of transfers are when the receiver saw them, which may be late for one
    and in time for the next: there a link is held to its rate from the start to each end.
    """

    def __init__(self, world: World, *, real: bool = False) -> None:
        self.world, self.real = world, real
        self.carried_bytes = np.zeros(len(world.actors.roles))
        self.names = world.actors.names
        self.roles = world.actors.roles
        self.last_end = 0.0
        self.actor_free_at = np.zeros(len(self.roles))
        self.open = SpanColumns.from_rows([])
        self.version = 0
        self.stepped_at = 0.0
        self.served = Served(world)
        self.channels = ChannelUse(world)
        self.cells = CellUse(world)
        self.queue_order = QueueOrder(world, real=real)
        self.presence = Presence(world)
        self.restarted = Restarted(self.roles)
        self.together = Together(world)
        self.steps_of = np.zeros(world.actors.num_devices, dtype=np.int64)
        self.replayed = np.zeros(world.replayed, dtype=np.int64)
        self.rounds = round_checks(world) if world.rounds is not None else None

    def add(self, columns: SpanColumns) -> None:
        """Check a further block.

        Raises:
            InvariantError: with the number of the invariant and the span that breaks it.
        """
        self._clock(columns)
        self._sizes(columns)
        self._actors(columns)
        self._links(columns)
        self._versions(columns)
        self._require(15, self.together.fine(columns), columns)
        self._delivery(columns)
        for breach in self.rounds.breaches(columns) if self.rounds is not None else ():
            _fail_at(breach.number, self.names, breach.span)
        left = self.queue_order.left(columns)
        self._require(10, self.queue_order.fine(left), left)
        self._require(12, self.restarted.fine(columns), columns)
        self._require(13, self.presence.idle_while_gone(columns), columns)
        self._jobs(columns)

    def _require(self, number: int, fine: NDArray[np.bool_], columns: SpanColumns) -> None:
        if not fine.all():
            _fail(number, self.names, columns, np.argmin(fine))

    @property
    def last_kind(self) -> int:
        """What a mini-batch's last span is."""
        if self.world.replies:
            return BACKWARD
        return UPDATE if self.rounds is not None else STEP

    def _clock(self, columns: SpanColumns) -> None:
        ends = np.concatenate([[self.last_end], columns.end])
        ordered = (np.diff(ends) >= 0) & (columns.start <= columns.end) & (columns.start >= 0)
        self._require(2, ordered & np.isfinite(columns.end), columns)
        self.last_end = float(ends[-1])

    def _sizes(self, columns: SpanColumns) -> None:
        carried = np.isin(columns.kind, CARRYING_KINDS)
        self._require(7, ~carried | (columns.num_bytes >= 0), columns)

    def _actors(self, columns: SpanColumns) -> None:
        index = np.flatnonzero(np.isin(columns.kind, WORK_KINDS))
        index = index[np.argsort(columns.actor[index], kind="stable")]
        if not len(index):
            return
        work = columns[index]
        same = np.diff(work.actor, prepend=NONE) == 0
        free_at = np.where(same, np.roll(work.end, 1), self.actor_free_at[work.actor])
        self._require(4, work.start >= free_at, work)
        self.actor_free_at[work.actor] = work.end  # of equal actors the last row wins

    def _links(self, columns: SpanColumns) -> None:
        moved = columns[np.isin(columns.kind, CARRYING_KINDS)]
        self._require(5, self.channels.fine(moved) & self.cells.fine(moved), moved)
        moved = moved[~self.channels.varies(moved)]
        group = self.world.group_of[moved.device]
        up = np.array([g.uplink_bits_per_s for g in self.world.groups])[group]
        down = np.array([g.downlink_bits_per_s for g in self.world.groups])[group]
        rate = np.where(moved.kind == TRANSFER, up, down)
        if self.world.rates is not None:
            rate = rate * self.world.rates[moved.device]
        # The clock's own rounding may shorten a span by some units in the last place.
        lasted = moved.end - moved.start + 4 * np.spacing(moved.end)
        if self.real:
            self._require(5, self._since_the_start(moved) <= rate * moved.end, moved)
            return
        fine = moved.num_bytes * BITS_PER_BYTE <= rate * lasted * (1 + 1e-12)
        self._require(5, fine, moved)

    def _since_the_start(self, moved: SpanColumns) -> NDArray[np.float64]:
        """Bits that each one's link has carried once it is carried."""
        found = np.zeros(len(moved))
        for actor in np.unique(moved.actor):
            mine = moved.actor == actor
            found[mine] = self.carried_bytes[actor] + np.cumsum(moved.num_bytes[mine])
            self.carried_bytes[actor] = found[mine][-1]
        return found * BITS_PER_BYTE

    def _versions(self, columns: SpanColumns) -> None:
        steps = columns[(columns.kind == STEP) & ~columns.cut]
        expected = self.version + 1 + np.arange(len(steps))
        fine = (steps.version_written == expected) & (steps.version_read >= 0)
        self._require(8, fine & (steps.version_written - 1 >= steps.version_read), steps)
        self.version += len(steps)

    def _delivery(self, columns: SpanColumns) -> None:
        """What trained is delivered once all steps are done."""
        if self.rounds is not None:
            return  # versions go out between steps
        stepped = columns.end[columns.kind == STEP]
        self.stepped_at = max(self.stepped_at, stepped.max(initial=0.0))
        waits = (columns.kind != DOWNLOAD) | (columns.start >= self.stepped_at)
        self._require(3, waits, columns)

    def _jobs(self, columns: SpanColumns) -> None:
        """Check the mini-batches that this block completes; carry the rest."""
        if self.world.replay is not None:
            drawn = columns[(columns.device == NONE) & (columns.kind == STEP) & ~columns.cut]
            np.add.at(self.replayed, drawn.batch, 1)
        owned = (columns.batch != NONE) & (columns.device != NONE)
        if self.rounds is not None:
            owned &= columns.version_read == NONE  # else what crosses for a round
        part_of_job = owned & ~np.isin(columns.kind, (WAIT, PAUSE)) & ~columns.cut
        parts = each_stepped(columns[part_of_job])
        jobs = Jobs.of(SpanColumns.concatenate([self.open, parts]), self.world)
        complete = jobs.complete(self.last_kind)
        self.open = jobs.columns[~complete]
        if complete.any():
            done = jobs[complete]
            once, fine = self.presence.without_lost(done)
            self._require(13, fine, done.columns)
            self._conservation(once)
            self._causes(self.restarted.without_lost(once))
            first = done.columns[done.first]
            self._require(11, self.presence.fine(first.device, done.begun()), first)
            if not self.world.on_device and self.rounds is None:
                self._run_ahead(done)

    def _conservation(self, jobs: Jobs) -> None:
        columns, first = jobs.columns, jobs.first
        expected = self._expected(columns.device[first], columns.batch[first])
        for counted, spans in zip(_COUNTED, expected, strict=False):
            kind = UPDATE if self.rounds is not None and counted == STEP else counted
            fine = jobs.total((columns.kind == kind).astype(np.int64)) == spans
            self._require(1, fine, columns[first])
        for kind, size in zip((TRANSFER, REPLY), expected[len(_COUNTED) :], strict=True):
            sent = jobs.total(np.where(columns.kind == kind, columns.num_bytes, 0))
            self._require(6, sent == size, columns[first])
        np.add.at(self.steps_of, columns.device[first], 1)

    def _expected(self, device: NDArray[np.int32], batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Spans of each kind in _COUNTED, bytes up and down: what each mini-batch must have."""
        on_device = self.world.on_device
        of_sort = [_expected_of(one, on_device=on_device) for one in self.world.all_batches]
        return np.array(of_sort).T[:, self.world.sorts(device, batch)]

    def _causes(self, jobs: Jobs) -> None:
        columns = jobs.columns
        fine = ~jobs.same_message | (columns.start >= np.roll(columns.end, 1))
        self._require(3, fine, columns)
        before = np.where(jobs.stage >= STEP_STAGE, -np.inf, columns.end)
        latest = np.maximum.reduceat(before, jobs.first)
        step = np.flatnonzero(columns.kind == (STEP if self.rounds is None else UPDATE))
        self._require(3, columns.start[step] >= latest, columns[step])

    def _run_ahead(self, jobs: Jobs) -> None:
        """A forward starts no earlier than the server took up the step run_ahead before."""
        early = self.served.add(jobs.key[jobs.first], jobs.begun(), self.restarted.taken_up(jobs))
        if early is not None:
            evidence = f"forward of device {early >> KEY_BITS}, batch {early & KEY_MASK}"
            raise InvariantError(3, RULES[3], f"span: {evidence} starts before its credit")

    def finish(self) -> None:
        """Check what can only be known at the end of a run that nothing cut short."""
        if len(self.open):
            _fail(1, self.names, self.open, 0)
        if self.rounds is not None:
            self._all_rounds(self.rounds.version)
            return
        expected = self.world.batches_of
        for device in np.flatnonzero(self.steps_of != expected):
            evidence = f"device-{device}: {self.steps_of[device]} steps of {expected[device]}"
            raise InvariantError(1, RULES[1], evidence)
        for number in np.flatnonzero(self.replayed != 1):
            evidence = f"mini-batch {number} of the replay: {self.replayed[number]} steps"
            raise InvariantError(1, RULES[1], evidence)

    def _all_rounds(self, stepped: int) -> None:
        if stepped != self.world.total_steps:
            evidence = f"{stepped} steps of {self.world.total_steps} rounds"
            raise InvariantError(14, RULES[14], evidence)


_COUNTED = (FORWARD, TRANSFER, STEP, REPLY)


def _expected_of(batch: Batch, *, on_device: bool) -> tuple[int, ...]:
    """Spans of each kind in _COUNTED, bytes up and down, of such a mini-batch."""
    forwards = sum(part.forward_s > 0 for part in batch.parts)
    sent = 0 if on_device else len(batch.parts)
    size = sum(part.num_bytes for part in batch.parts)
    return forwards, sent, 1, int(batch.reply_bytes > 0), size, batch.reply_bytes


def check_summary(
    summary: dict[str, Any], blocks: Iterable[SpanColumns], names: tuple[str, ...]
) -> None:
    """Hold the numbers of a summary against sums over the published table.

    Raises:
        InvariantError: I9, with the number that disagrees; I7 for a negative memory.
    """
    found = _sums(blocks, len(names))
    for key in ("num_steps", "uplink_bytes", "downlink_bytes", "makespan_s"):
        if summary[key] is not None and summary[key] != found[key]:
            raise InvariantError(
                9, RULES[9], f"summary.{key} = {summary[key]}, spans: {found[key]}"
            )
    busy = dict(zip(names, (found["busy_s"] / (found["makespan_s"] or 1.0)).tolist(), strict=True))
    for name, share in summary["utilisation"].items():
        if abs(share - busy[name]) > _ROUNDING:
            evidence = f"summary.utilisation[{name}] = {share}, spans: {busy[name]}"
            raise InvariantError(9, RULES[9], evidence)
    for side in ("device_memory_bytes", "server_memory_bytes"):
        for part, size in (summary[side] or {}).items():
            if size < 0:
                raise InvariantError(7, RULES[7], f"summary.{side}.{part} = {size}")


def _sums(blocks: Iterable[SpanColumns], num_actors: int) -> dict[str, Any]:
    first, last, steps, up, down = np.inf, 0.0, 0, 0, 0
    busy = np.zeros(num_actors)
    for columns in filter(len, blocks):
        whole = ~columns.cut
        first, last = min(first, columns.start.min()), max(last, columns.end.max())
        steps += int(np.sum((columns.kind == STEP) & whole))
        up += int(columns.num_bytes[columns.kind == TRANSFER].sum())
        down += int(columns.num_bytes[np.isin(columns.kind, (DOWNLOAD, REPLY))].sum())
        work = columns[np.isin(columns.kind, WORK_KINDS)]
        busy += np.bincount(work.actor, work.end - work.start, num_actors)
    return {
        "num_steps": steps,
        "uplink_bytes": up,
        "downlink_bytes": down,
        "makespan_s": float(last - first) if last > 0 else 0.0,
        "busy_s": busy,
    }
