"""Mini-batches at the server, from the thread that takes messages in to the worker's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from mobisim.testbed.inbox import Arrival


class Job:
    """A mini-batch: whose, which, since when, and the messages that are here."""

    def __init__(self, arrival: Arrival, at: float) -> None:
        self.device, self.batch, self.since = arrival.device, arrival.batch, at
        self.bodies: dict[int, bytes] = {}
        self.arrived: dict[int, float] = {}


class Jobs:
    """First come, first served. `end` makes every wait raise what it was given."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._open: dict[tuple[int, int], Job] = {}
        self._failure: BaseException | None = None

    def add(self, arrival: Arrival, at: float) -> None:
        """A message is here."""
        key = arrival.device, arrival.batch
        with self._changed:
            job = self._open.get(key)
            if job is None:
                job = self._open[key] = Job(arrival, at)
                self._queue.append(job)
            job.bodies[arrival.part] = arrival.body
            job.arrived[arrival.part] = at
            self._changed.notify_all()

    def next(self) -> Job:
        """The mini-batch that has waited longest."""
        self._wait(lambda: bool(self._queue))
        return self._queue.popleft()

    def part(self, job: Job, part: int) -> tuple[bytes, float]:
        """A message of a mini-batch, and when it arrived; waits until it is here."""
        self._wait(lambda: part in job.bodies)
        return job.bodies.pop(part), job.arrived[part]

    def close(self, job: Job) -> None:
        """A mini-batch is done."""
        del self._open[job.device, job.batch]

    def forget(self, device: int) -> None:
        """A device's mini-batches are to come again."""
        with self._changed:
            self._queue = deque(job for job in self._queue if job.device != device)
            self._open = {key: job for key, job in self._open.items() if key[0] != device}

    def end(self, failure: BaseException) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that `changed` tells of."""
        self._wait(holds)

    def changed(self) -> None:
        """Look again."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            while not holds():
                if self._failure is not None:
                    raise self._failure
                self._changed.wait()
