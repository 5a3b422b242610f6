"""The server's side of the timeline: one queue of mini-batches, and the workers that empty it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from mobisim.sim.job import Client, Job, Kept, Sender
from mobisim.sim.kernel import Alarm
from mobisim.sim.machine import SERVER_SIDE
from mobisim.sim.scene import Scene
from mobisim.sim.waiting import QUEUES
from mobisim.span import DECODE, NONE, QUEUE, SIDE_FORWARD, STEP, WAIT, Row
from mobisim.streams import factor_stream
from mobisim.world import Batch, Part


class Server:
    """One queue of mini-batches for all workers."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        actors = scene.world.actors
        self.actor = actors.server
        self.devices: Sequence[Client] = ()
        self.queue = QUEUES[scene.world.discipline]()
        self.workers = [self.worker(i) for i in range(scene.world.num_workers)]
        self.idle = list(range(scene.world.num_workers))
        heapify(self.idle)
        self.open_jobs: dict[tuple[int, int], Job] = {}
        self.version = 0
        self.learned = 0  # mini-batches that were learned from
        self.coming = 0  # mini-batches whose room is taken, and that are not taken up
        self.line: deque[Sender] = deque()  # those that wait for room
        self.kept = Kept()
        self.total_batches = scene.world.total_batches
        self.replayed = 0

    def worker(self, index: int) -> Worker:
        """One of the workers."""
        return Worker(self.scene, self, index)

    def stepped(self, num_batches: int) -> int:
        """A step on so many mini-batches is done: the version that it wrote."""
        self.version += 1
        self.learned += num_batches
        return self.version

    @property
    def is_done(self) -> bool:
        """Whether the last step of all is done."""
        return self.learned == self.scene.world.total_learned

    def begins(self, device: Client) -> None:
        """The first mini-batch joins at once if the server has kept all of it."""
        job = self._cached_after(device, NONE)
        if job is not None:
            self._joins(job)

    def has_room(self, sender: Sender, part: Part) -> bool:  # noqa: ARG002 - all need room
        """Whether the mini-batch of a first part may set out; else its uplink is told when."""
        if self.scene.world.room is None:
            return True
        if self.coming == self.scene.world.room:
            self.line.append(sender)
            return False
        self.coming += 1
        return True

    def takes_up(self, job: Job) -> None:
        """A mini-batch is taken up: there is room for another."""
        if self.scene.world.room is None or not job.batch.parts:
            return
        if self.line:
            self.line.popleft().is_let_in()
        else:
            self.coming -= 1

    def arrives(self, device: Client, number: int, batch: Batch, now: float) -> None:
        """A message is here: one of its mini-batch makes that queue, the others join it."""
        if len(batch.parts) == 1:
            job = Job(device, number, batch, now)
            job.arrived = 1
            self._joins(job)
            return
        job = self.open_jobs.get((device.index, number)) or Job(device, number, batch, now)
        job.arrived += 1
        self.open_jobs[device.index, number] = job
        if job.arrived == (len(batch.parts) if device.may_vanish else 1):
            job.since = now
            self._joins(job)
        elif job.worker is not None and job.worker.waits_for(job):
            job.worker.part_is_here(now)
        if job.arrived == len(batch.parts):
            del self.open_jobs[device.index, number]

    def _joins(self, job: Job) -> None:
        """A mini-batch joins, after those before it that the server has kept."""
        if not self.scene.world.caches:
            self._enqueue(job)
            return
        device = job.device
        while device.joined < job.number:
            kept = device.numbers(device.joined)
            self._joins(Job(device, device.joined, kept, self.scene.env.now))
        following: Job | None = job
        while following is not None:
            device.joined += 1
            self._enqueue(following)
            taken_up = following.worker is not None
            following = self._cached_after(device, following.number) if taken_up else None

    def _cached_after(self, device: Client, number: int) -> Job | None:
        """The next mini-batch, if it is the next to join and the server has kept all of it."""
        following = number + 1
        if following != device.joined or following == device.num_batches:
            return None
        batch = device.numbers(following)
        return None if batch.parts else Job(device, following, batch, self.scene.env.now)

    def _enqueue(self, job: Job) -> None:
        if self.idle:
            self.queue.passes(job)
            self.workers[heappop(self.idle)].take(job)
        else:
            self.queue.join(job)

    def free(self, worker: Worker, now: float) -> None:
        """A worker is done: it takes the mini-batch that comes next."""
        if not self._takes_next(worker, now) and self.learned >= self.total_batches:
            self._passed(now)

    def _takes_next(self, worker: Worker, now: float) -> bool:
        """Whether a worker found a mini-batch that waits; else it is idle."""
        if not self.queue:
            heappush(self.idle, worker.index)
            return False
        job = self.queue.take()
        if now > job.since:
            self.scene.rows.append(self._queue_row(job, now, cut=False))
        worker.take(job)
        following = self._cached_after(job.device, job.number)
        if following is not None:
            self._joins(following)
        return True

    @property
    def works(self) -> bool:
        """Whether any worker has a mini-batch."""
        return any(worker.job is not None for worker in self.workers)

    def goes_down(self) -> None:
        """What the workers do is lost, and nobody is there to take up what joins."""
        for worker in self.workers:
            worker.stops()
        self.idle.clear()

    def comes_back(self) -> None:
        """Each worker goes on: with the mini-batch that it had, or with what waits."""
        for worker in self.workers:
            if worker.job is not None:
                worker.begins_anew()
            else:
                self._takes_next(worker, self.scene.env.now)

    def _passed(self, now: float) -> None:
        """The devices' mini-batches are stepped: learn on from what was kept, then deliver."""
        world = self.scene.world
        while self.idle and self.replayed < world.replayed:
            assert world.replay is not None
            batch = world.replay.batches[world.replay.order[self.replayed]]
            job = Job(self.kept, self.replayed, batch, now)
            self.replayed += 1
            self.workers[heappop(self.idle)].take(job)
        if self.is_done and world.deliver:
            for device in self.devices:
                device.deliver()

    def _queue_row(self, job: Job, end: float, *, cut: bool) -> Row:
        return (
            QUEUE, self.actor, job.since, end, job.device.index, job.number,
            job.batch.parts[0].tap if job.batch.parts else NONE, NONE, NONE, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The rows of what waits in the queue."""
        return [self._queue_row(job, end, cut=True) for job in self.queue]


class Worker:
    """Works through one mini-batch at a time: decode, side forward, step."""

    ends_with = STEP

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
        self.alarm: Alarm | None = None

    def waits_for(self, job: Job) -> bool:
        """Whether the worker waits for the next part of a mini-batch."""
        return self.doing == WAIT and self.job is job

    def take(self, job: Job) -> None:
        """Take up a mini-batch: from here on its device has one more credit."""
        self.job = job
        job.worker = self
        if self.step_factor is not None:
            self.factor = self.step_factor()
        job.device.step_starts()
        self.server.takes_up(job)
        self.begins_anew()

    def begins_anew(self) -> None:
        """Set to work on the mini-batch from its start."""
        job = self._job()
        job.version = self.server.version
        self.since = self.scene.env.now
        self._work(DECODE, job.batch.cached_s, self._unpacked)

    def stops(self) -> None:
        """The server goes down: all that was done for the mini-batch at hand is lost."""
        if self.job is None:
            return
        now = self.scene.env.now
        if now > self.since:
            self.scene.rows.append(self._row(now, NONE, cut=True))
        if self.alarm is not None:
            self.alarm.cancel()
        self.doing = self.job.done = NONE

    def _unpacked(self, event: Any) -> None:
        if event is not None:
            self._write(NONE)
        self._job().done = 0
        self._decode()

    def _decode(self) -> None:
        job = self._job()
        if job.done == len(job.batch.parts):
            self._work(self.ends_with, self._step_s(), self._stepped)
            return
        if job.done == job.arrived:
            self.doing = WAIT
            return
        self._work(DECODE, job.batch.parts[job.done].decode_s, self._decoded)

    def _step_s(self) -> float:
        """The seconds of the step."""
        return self._job().batch.step_s

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
        self._job().done += 1
        self._decode()

    def _work(self, kind: int, duration: float, then: Any) -> None:
        """Work for a while; what is stated to take no time leaves no span and no event."""
        if duration == 0.0:
            then(None)
            return
        self.doing = kind
        duration *= self.factor
        if self.scene.machine is None:
            self.alarm = Alarm(self.scene.env, self.since + duration, self.index, then)
        else:
            self.scene.machine.begin(SERVER_SIDE, duration, self.index, then)

    def _stepped(self, _: Any) -> None:
        now = self._write(self._writes())
        job = self._job()
        if job.batch.reply_bytes:
            job.device.replies(job.number, job.batch)
        self.job = None
        self.doing = NONE
        self.server.free(self, now)

    def _writes(self) -> int:
        """The version that a step writes."""
        return self.server.stepped(1)

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
        within = self.doing != self.ends_with and job.done != NONE
        tap = job.batch.parts[job.done].tap if within else NONE
        return (
            self.doing, self.actor, self.since, end, job.device.index, job.number, tap,
            NONE, read, version_written, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The row of what the worker is doing."""
        return [] if self.doing == NONE else [self._row(end, NONE, cut=True)]
