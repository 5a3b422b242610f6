"""The actors of the timeline: devices, links and the server, as callbacks on SimPy events.

Rows leave in the order of their ends, so each span is written at the moment it ends. Callbacks
instead of processes keep one mini-batch at a handful of events; the rules are those of DESIGN.md.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Any

from mobisim.sim.kernel import Alarm, Clock
from mobisim.sim.streams import Factor, factor_stream
from mobisim.span import (
    DECODE,
    DOWNLOAD,
    ENCODE,
    FORWARD,
    LATENCY,
    NONE,
    QUEUE,
    SIDE_FORWARD,
    STEP,
    TRANSFER,
    WAIT,
    Row,
)
from mobisim.world import Batch, Group, Part, World


class Scene:
    """What all actors share: the clock, the rows written so far, the world."""

    def __init__(self, world: World) -> None:
        self.env = Clock()
        self.world = world
        self.rows: list[Row] = []


class Job:
    """A mini-batch at the server: which parts have arrived, when it came, who works on it."""

    __slots__ = ("arrived", "batch", "device", "done", "number", "since", "version", "worker")

    def __init__(self, device: Device, number: int, batch: Batch, since: float) -> None:
        self.device, self.number, self.batch, self.since = device, number, batch, since
        self.arrived = 0
        self.done = 0
        self.version = NONE
        self.worker: Worker | None = None


class Device:
    """Runs the frozen backbone over its mini-batches, within its run-ahead."""

    def __init__(self, scene: Scene, group: Group, index: int, server: Server) -> None:
        self.scene, self.group, self.index, self.server = scene, group, index, server
        self.rank = scene.world.num_workers + index
        self.uplink = Uplink(scene, self)
        self.number = -1  # the mini-batch at hand
        self.batch = group.batches[0]
        self.part = 0
        self.steps_started = 0
        self.doing = NONE
        self.since = 0.0
        seed = scene.world.seed
        self.forward_factor = factor_stream(
            seed, f"device-{index}/forward", group.forward_distribution
        )
        self.encode_factor = factor_stream(
            seed, f"device-{index}/encode", group.encode_distribution
        )

    def next_batch(self) -> None:
        """Go on to the next mini-batch, or wait for credit, or rest."""
        self.number += 1
        if self.number == self.group.num_batches:
            self.doing = NONE
            return
        order = self.group.order
        if order is not None:
            self.batch = self.group.batches[order[self.number]]
        self.part = 0
        self.since = self.scene.env.now
        if self._has_credit():
            self._forward()
        else:
            self.doing = WAIT

    def _has_credit(self) -> bool:
        return self.steps_started > self.number - self.group.run_ahead

    def step_starts(self) -> None:
        """The server takes up this device's next mini-batch; that is credit for one more."""
        self.steps_started += 1
        if self.doing == WAIT and self._has_credit():
            now = self.scene.env.now
            if now > self.since:
                self.scene.rows.append(self.open_row(now, cut=False))
                self.since = now
            self._forward()

    def _forward(self) -> None:
        self.doing = FORWARD
        duration = self.batch.parts[self.part].forward_s
        if self.forward_factor is not None:
            duration *= self.forward_factor()
        Alarm(self.scene.env, self.since + duration, self.rank, self._forward_ends)

    def _forward_ends(self, _: Any) -> None:
        now = self._write()
        duration = self.batch.parts[self.part].encode_s
        if duration == 0.0:
            self._send(now)
            return
        if self.encode_factor is not None:
            duration *= self.encode_factor()
        self.doing = ENCODE
        Alarm(self.scene.env, now + duration, self.rank, self._encode_ends)

    def _encode_ends(self, _: Any) -> None:
        self._send(self._write())

    def _write(self) -> float:
        now = self.scene.env.now
        self.scene.rows.append(self.open_row(now, cut=False))
        self.since = now
        return now

    def _send(self, now: float) -> None:
        parts = self.batch.parts
        self.uplink.send(self.number, self.batch, parts[self.part], now)
        self.part += 1
        if self.part < len(parts):
            self._forward()
        else:
            self.next_batch()

    def open_row(self, end: float, *, cut: bool) -> Row:
        """The row of what the device is doing."""
        tap = NONE if self.doing == WAIT else self.batch.parts[self.part].tap
        return (
            self.doing, self.index, self.since, end, self.index, self.number, tap,
            NONE, NONE, NONE, cut,
        )  # fmt: skip


class Uplink:
    """Carries one message after the other; arrival comes a latency after the last byte left."""

    def __init__(self, scene: Scene, device: Device) -> None:
        self.scene, self.device = scene, device
        self.actor = scene.world.actors.uplink(device.index)
        self.messages: deque[tuple[int, Batch, Part, float]] = deque()  # the head is carried
        self.since = 0.0
        self.flying: deque[tuple[int, Batch, Part, float]] = deque()
        self.last_arrival = 0.0
        group = device.group
        self.latency_s = group.latency_s
        self.latency_factor: Factor | None = factor_stream(
            scene.world.seed, f"uplink-{device.index}/latency", group.latency_distribution
        )

    def send(self, number: int, batch: Batch, part: Part, now: float) -> None:
        """Take a message; carry it when those before it are through."""
        self.messages.append((number, batch, part, now))
        if len(self.messages) == 1:
            self._carry(now)

    def _carry(self, now: float) -> None:
        number, _, part, since = self.messages[0]
        if now > since:
            self.scene.rows.append(self._row(QUEUE, since, now, number, part))
        self.since = now
        Alarm(self.scene.env, now + part.transfer_s, self.device.rank, self._carried)

    def _carried(self, _: Any) -> None:
        now = self.scene.env.now
        number, batch, part, _since = self.messages.popleft()
        self.scene.rows.append(self._row(TRANSFER, self.since, now, number, part, part.num_bytes))
        if self.messages:
            self._carry(now)
        latency = self.latency_s
        if latency == 0.0:
            self.device.server.arrives(self.device, number, batch, now)
            return
        if self.latency_factor is not None:
            latency *= self.latency_factor()
        # Messages of one link arrive in the order in which they left, as on one TCP connection.
        self.last_arrival = max(now + latency, self.last_arrival)
        self.flying.append((number, batch, part, now))
        Alarm(self.scene.env, self.last_arrival, self.device.rank, self._lands)

    def _lands(self, _: Any) -> None:
        now = self.scene.env.now
        number, batch, part, since = self.flying.popleft()
        self.scene.rows.append(self._row(LATENCY, since, now, number, part))
        self.device.server.arrives(self.device, number, batch, now)

    def _row(
        self, kind: int, start: float, end: float, number: int, part: Part,
        num_bytes: int = NONE, *, cut: bool = False,
    ) -> Row:  # fmt: skip
        return (
            kind, self.actor, start, end, self.device.index, number, part.tap,
            num_bytes, NONE, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The rows of what is on the link, queued for it and in flight."""
        carried = list(self.messages)[:1]
        return [
            *(self._row(TRANSFER, self.since, end, n, p, cut=True) for n, _, p, _ in carried),
            *(self._row(QUEUE, s, end, n, p, cut=True) for n, _, p, s in list(self.messages)[1:]),
            *(self._row(LATENCY, s, end, n, p, cut=True) for n, _, p, s in self.flying),
        ]


class Server:
    """One first-come queue of mini-batches for all workers."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        actors = scene.world.actors
        self.actor = actors.server
        self.devices: list[Device] = []
        self.queue: deque[Job] = deque()
        self.workers = [Worker(scene, self, i) for i in range(scene.world.num_workers)]
        self.idle = list(range(scene.world.num_workers))
        heapify(self.idle)
        self.open_jobs: dict[tuple[int, int], Job] = {}
        self.version = 0
        self.downloads: list[Download] = []

    def arrives(self, device: Device, number: int, batch: Batch, now: float) -> None:
        """A message is here: the first of its mini-batch queues, the others join it."""
        if len(batch.parts) == 1:
            job = Job(device, number, batch, now)
            job.arrived = 1
            self._enqueue(job)
            return
        job = self.open_jobs.get((device.index, number)) or Job(device, number, batch, now)
        job.arrived += 1
        if job.arrived == 1:
            self.open_jobs[device.index, number] = job
            self._enqueue(job)
        elif job.worker is not None and job.worker.starved:
            job.worker.part_is_here(now)
        if job.arrived == len(batch.parts):
            del self.open_jobs[device.index, number]

    def _enqueue(self, job: Job) -> None:
        if self.idle:
            self.workers[heappop(self.idle)].take(job)
        else:
            self.queue.append(job)

    def free(self, worker: Worker, now: float) -> None:
        """A worker is done: it takes the mini-batch that has waited longest."""
        if self.queue:
            job = self.queue.popleft()
            if now > job.since:
                self.scene.rows.append(self._queue_row(job, now, cut=False))
            worker.take(job)
            return
        heappush(self.idle, worker.index)
        world = self.scene.world
        if self.version == world.total_batches and world.deliver:
            self.downloads = [Download(self.scene, device) for device in self.devices]

    def _queue_row(self, job: Job, end: float, *, cut: bool) -> Row:
        return (
            QUEUE, self.actor, job.since, end, job.device.index, job.number,
            job.batch.parts[0].tap, NONE, NONE, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The rows of what waits in the queue."""
        return [self._queue_row(job, end, cut=True) for job in self.queue]


class Worker:
    """Works through one mini-batch at a time: decode, side forward, step."""

    def __init__(self, scene: Scene, server: Server, index: int) -> None:
        self.scene, self.server, self.index = scene, server, index
        self.actor = scene.world.actors.worker(index)
        self.job: Job | None = None
        self.doing = NONE
        self.since = 0.0
        self.step_factor = factor_stream(
            scene.world.seed, f"worker-{index}/step", scene.world.step_distribution
        )
        self.factor = 1.0

    @property
    def starved(self) -> bool:
        """Whether the worker waits for the next part of its mini-batch."""
        return self.doing == WAIT

    def take(self, job: Job) -> None:
        """Take up a mini-batch: from here on its device has one more credit."""
        self.job = job
        job.worker = self
        job.version = self.server.version
        if self.step_factor is not None:
            self.factor = self.step_factor()
        self.since = self.scene.env.now
        job.device.step_starts()
        self._decode()

    def _decode(self) -> None:
        job = self._job()
        if job.done == job.arrived:
            self.doing = WAIT
            return
        self._work(DECODE, job.batch.parts[job.done].decode_s, self._decoded)

    def part_is_here(self, now: float) -> None:
        """The part that the worker waits for has arrived."""
        if now > self.since:
            self._write(NONE)
        self._decode()

    def _decoded(self, event: Any) -> None:
        if event is not None:
            self._write(NONE)
        job = self._job()
        self._work(SIDE_FORWARD, job.batch.parts[job.done].side_forward_s, self._part_done)

    def _part_done(self, event: Any) -> None:
        if event is not None:
            self._write(NONE)
        job = self._job()
        job.done += 1
        if job.done < len(job.batch.parts):
            self._decode()
        else:
            self._work(STEP, job.batch.step_s, self._stepped)

    def _work(self, kind: int, duration: float, then: Any) -> None:
        """Work for a while; what is stated to take no time leaves no span and no event."""
        if duration == 0.0:
            then(None)
            return
        self.doing = kind
        Alarm(self.scene.env, self.since + duration * self.factor, self.index, then)

    def _stepped(self, _: Any) -> None:
        self.server.version += 1
        now = self._write(self.server.version)
        self.job = None
        self.doing = NONE
        self.server.free(self, now)

    def _write(self, version_written: int) -> float:
        now = self.scene.env.now
        self.scene.rows.append(self._row(now, version_written, cut=False))
        self.since = now
        return now

    def _job(self) -> Job:
        assert self.job is not None
        return self.job

    def _row(self, end: float, version_written: int, *, cut: bool) -> Row:
        job = self._job()
        read = job.version if self.doing == STEP else NONE
        tap = NONE if self.doing == STEP else job.batch.parts[job.done].tap
        return (
            self.doing, self.actor, self.since, end, job.device.index, job.number, tap,
            NONE, read, version_written, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The row of what the worker is doing."""
        return [] if self.job is None else [self._row(end, NONE, cut=True)]


class Download:
    """Brings the side network to a device once the last step is done."""

    def __init__(self, scene: Scene, device: Device) -> None:
        self.scene, self.device = scene, device
        self.actor = scene.world.actors.downlink(device.index)
        self.kind = DOWNLOAD
        self.since = scene.env.now
        Alarm(scene.env, self.since + device.group.download_s, device.rank, self._carried)

    def _carried(self, _: Any) -> None:
        self._write(self.device.group.download_bytes)
        latency = self.device.group.latency_s
        if latency == 0.0:
            self.kind = NONE
            return
        factor = self.device.uplink.latency_factor
        if factor is not None:
            latency *= factor()
        self.kind = LATENCY
        Alarm(self.scene.env, self.since + latency, self.device.rank, self._lands)

    def _lands(self, _: Any) -> None:
        self._write(NONE)
        self.kind = NONE

    def _write(self, num_bytes: int) -> None:
        now = self.scene.env.now
        self.scene.rows.append(self._row(now, num_bytes, cut=False))
        self.since = now

    def _row(self, end: float, num_bytes: int, *, cut: bool) -> Row:
        return (
            self.kind, self.actor, self.since, end, self.device.index, NONE, NONE,
            num_bytes, NONE, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The row of what is under way."""
        return [] if self.kind == NONE else [self._row(end, NONE, cut=True)]
