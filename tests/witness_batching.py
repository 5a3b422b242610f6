"""The second engine where the server batches: written from DESIGN.md's rules alone."""

from __future__ import annotations

from witness import Engine, Job, Work, Worker, first_tap

from mobisim.span import NONE
from mobisim.world import World


class BatchingEngine(Engine):
    """Mini-batches wait until they are due; a worker steps on several at once."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        assert world.batching is not None
        self.batching = world.batching
        self.members: dict[int, list[Job]] = {}  # of each worker, in the order of taking up

    def joins(self, job: Job) -> None:
        """It waits at least until all are looked at."""
        self.devices[job.device].joined += 1
        self.queue.append(job)
        rank = len(self.workers) + 2 * len(self.devices) + 1
        if self.batching.window_s > 0:
            self.at(job.joined + self.batching.window_s, rank, self.look)
        self.look()

    def look(self) -> None:
        """Whoever is idle takes what is due."""
        while self.down is None and self.is_due():
            idle = [worker for worker in self.workers if worker.job is None]
            if not idle:
                return
            self.take_up(idle[0])

    def is_due(self) -> bool:
        """Enough, long enough, or nothing more to come."""
        if not self.queue:
            return False
        if len(self.queue) >= self.batching.most:
            return True
        if all(device.joined == device.num_batches for device in self.devices):
            return True
        return any(self.now >= job.joined + self.batching.window_s for job in self.queue)

    def take_up(self, worker: Worker) -> None:
        """As many as wait, no more than a step may be on."""
        if not self.is_due():
            return
        jobs: list[Job] = []
        while self.queue and len(jobs) < self.batching.most:
            job = self.next_in_queue()
            self.queue.remove(job)
            self.last_device = job.device
            self.served[job.device] += job.work_s
            jobs.append(job)
        factor = self.factor(self.world.step_distribution, f"worker-{worker.index}/step")
        worker.job, self.members[worker.index] = jobs[0], jobs
        for job in jobs:
            job.worker, job.version_read, job.factor = worker, self.steps_done, factor
            place = (job.device, job.batch, first_tap(job))
            self.write(Work("queue", self.world.actors.server, job.joined, *place))
            self.credit(self.devices[job.device])
            self.gives_room(job)
        self.sets_to_work(worker, jobs[0])
        for job in jobs:
            self.one_kept_follows(job)

    def comes_back(self) -> None:
        """All members of what was interrupted begin anew, the first one first."""
        for worker in self.workers:
            if worker.job is not None and worker.job.device != NONE:
                worker.job = self.members[worker.index][0]
                for job in self.members[worker.index]:
                    job.version_read, job.position = self.steps_done, 0
        super().comes_back()

    def waits_for(self, worker: Worker, job: Job) -> bool:
        """It may wait for a part of another of its mini-batches."""
        return worker.job is job and super().waits_for(worker, job)

    def next_part(self, worker: Worker, job: Job) -> None:
        """After the last part of one comes the next one; after that of the last the step."""
        jobs = self.members[worker.index] if job.device != NONE else [job]
        if job.position < len(job.numbers.parts):
            super().next_part(worker, job)
        elif job is not jobs[-1]:
            worker.job = jobs[jobs.index(job) + 1]
            self.sets_to_work(worker, worker.job)
        else:
            worker.job = jobs[0]
            seconds = jobs[0].numbers.step_s
            if len(jobs) > 1:
                seconds = self.batching.step_s([self.sort_of(each) for each in jobs])
            self.work(worker, "step", seconds * job.factor, lambda: self.step_ends(worker))

    def sort_of(self, job: Job) -> int:
        """The number of a mini-batch among all distinct ones."""
        own, before = job.numbers, 0
        for group in self.world.groups:
            if group is self.devices[job.device].group:
                return before + next(i for i, one in enumerate(group.batches) if one is own)
            before += len(group.batches)
        raise AssertionError("unreachable: each device has a group")

    def step_ends(self, worker: Worker) -> None:
        """The others are named first; all of them are stepped."""
        assert worker.doing is not None
        assert worker.job is not None
        others = self.members[worker.index][1:] if worker.job.device != NONE else []
        actor, start, read = self.world.actors.server, worker.doing.start, worker.job.version_read
        for job in others:
            named = Work("joint", actor, start, job.device, job.batch, version_read=read)
            self.write(named, version_written=self.steps_done + 1)
        self.steps_due -= len(others)
        super().step_ends(worker)
