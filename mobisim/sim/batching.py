"""A server that waits for several mini-batches and learns from them in one step.

The rules are DESIGN.md's.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Any

from mobisim.sim.job import Job
from mobisim.sim.kernel import Alarm
from mobisim.sim.scene import Scene
from mobisim.sim.server import Server, Worker
from mobisim.span import DECODE, JOINT, NONE


class BatchingServer(Server):
    """Lets mini-batches wait until they are many or one has waited for the window."""

    def __init__(self, scene: Scene) -> None:
        assert scene.world.batching is not None
        self.batching = scene.world.batching
        self.have_joined = self.waiting = 0
        self.line_up: deque[Job] = deque()  # those that wait, and some that do no more
        self.awaited = -1.0  # the end of a window
        super().__init__(scene)

    def worker(self, index: int) -> Worker:
        """One of the workers."""
        return BatchingWorker(self.scene, self, index)

    def _enqueue(self, job: Job) -> None:
        self.queue.join(job)
        self.line_up.append(job)
        self.have_joined += 1
        self.waiting += 1
        self._serve()

    def _serve(self) -> None:
        """Idle workers take what is due."""
        while self.idle and self._is_due():
            self._take(self.workers[heappop(self.idle)])
        self._await_window()

    def _is_due(self) -> bool:
        """Whether enough wait, or one for long enough, or no more will come."""
        if not self.waiting:
            return False
        enough = self.waiting >= self.batching.most or self.have_joined == self.total_batches
        return enough or self.scene.env.now >= self._window_ends()

    def _window_ends(self) -> float:
        """When whoever waits for longest has waited for the window."""
        while self.line_up[0].worker is not None:
            self.line_up.popleft()
        return self.line_up[0].since + self.batching.window_s

    def _await_window(self) -> None:
        if self.waiting and (at := self._window_ends()) > max(self.scene.env.now, self.awaited):
            self.awaited = at
            Alarm(self.scene.env, at, self.scene.world.last_rank + 1, self._window_is_over)

    def _window_is_over(self, _: Any) -> None:
        self._serve()

    def _takes_next(self, worker: Worker, now: float) -> bool:  # noqa: ARG002 - the clock says
        """Whether a worker found what is due; else it is idle."""
        if not self._is_due():
            heappush(self.idle, worker.index)
            return False
        self._take(worker)
        self._await_window()
        return True

    def _take(self, worker: Worker) -> None:
        assert isinstance(worker, BatchingWorker)
        jobs = [self.queue.take() for _ in range(min(self.waiting, self.batching.most))]
        self.waiting -= len(jobs)
        worker.take_together(jobs)
        for job in jobs:
            following = self._cached_after(job.device, job.number)
            if following is not None:
                self._joins(following)

    def leaves_queue(self, job: Job, now: float) -> None:
        """A mini-batch is taken up."""
        if now > job.since:
            self.scene.rows.append(self._queue_row(job, now, cut=False))

    def joint_step_s(self, jobs: list[Job]) -> float:
        """The seconds of a step on several mini-batches."""
        sort = self.scene.world.sort
        return self.batching.step_s([sort(job.device.index, job.number) for job in jobs])


class BatchingWorker(Worker):
    """Works through several mini-batches one after the other, then steps once."""

    def __init__(self, scene: Scene, server: BatchingServer, index: int) -> None:
        super().__init__(scene, server, index)
        self.batching_server = server
        self.jobs: list[Job] = []
        self.at = 0  # which of them is at hand

    def take(self, job: Job) -> None:
        """Take up one alone, as those of a replay are."""
        self.jobs = [job]
        super().take(job)

    def take_together(self, jobs: list[Job]) -> None:
        """Take up several at once."""
        self.jobs = jobs
        if self.step_factor is not None:
            self.factor = self.step_factor()
        for job in jobs:
            self.batching_server.leaves_queue(job, self.scene.env.now)
            job.worker = self
            job.device.step_starts()
            self.server.takes_up(job)
        self.begins_anew()

    def begins_anew(self) -> None:
        """Set to work on all of them from the start."""
        self.job, self.at = self.jobs[0], 0
        for one in self.jobs:
            one.done = NONE
        super().begins_anew()

    def _decode(self) -> None:
        job = self._job()
        if job.done < len(job.batch.parts) or self.at + 1 == len(self.jobs):
            super()._decode()
            return
        self.at += 1
        self.job = self.jobs[self.at]
        self._work(DECODE, self.job.batch.cached_s, self._unpacked)

    def _step_s(self) -> float:
        """The seconds of the step, which has the number of the first."""
        self.job = self.jobs[0]
        if len(self.jobs) == 1:
            return super()._step_s()
        return self.batching_server.joint_step_s(self.jobs)

    def _writes(self) -> int:
        """The version that is written, and a row for each of the others."""
        version = self.server.stepped(len(self.jobs))
        first, now = self.jobs[0], self.scene.env.now
        self.scene.rows += [
            (
                JOINT, self.server.actor, self.since, now, job.device.index, job.number, NONE,
                NONE, first.version, version, False,
            )
            for job in self.jobs[1:]
        ]  # fmt: skip
        return version
