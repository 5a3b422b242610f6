"""What waits at the server, and which of it comes next. The rules are DESIGN.md's."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from mobisim.scenario.schema import Discipline

if TYPE_CHECKING:
    from mobisim.sim.job import Job


class Queue(Protocol):
    """Mini-batches that wait for a worker."""

    def __bool__(self) -> bool:
        """Whether any waits."""
        ...

    def __iter__(self) -> Iterator[Job]:
        """All that wait, in the order in which they joined."""
        ...

    def join(self, job: Job) -> None:
        """A mini-batch finds no idle worker."""
        ...

    def take(self) -> Job:
        """The mini-batch that comes next, which is taken up."""
        ...

    def passes(self, job: Job) -> None:
        """A mini-batch is taken up without having waited; then none waits."""
        ...


class FirstCome:
    """Whoever joined first comes next."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()

    def __bool__(self) -> bool:
        return bool(self.jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def join(self, job: Job) -> None:
        """A mini-batch finds no idle worker."""
        self.jobs.append(job)

    def take(self) -> Job:
        """The mini-batch that comes next, which is taken up."""
        return self.jobs.popleft()

    def passes(self, job: Job) -> None:
        """A mini-batch is taken up without having waited."""


class Rule(Protocol):
    """Ranks the first mini-batch of each device that waits.

    A rank holds until the device's mini-batch is taken up.
    """

    def rank(self, job: Job, joined: int) -> tuple[float, int]:
        """The lower the sooner, no two alike; `joined` counts what has joined the queue."""
        ...

    def taken(self, job: Job) -> None:
        """A mini-batch is taken up."""
        ...


class Ranked:
    """A queue of each device's own, and a rule by which their heads are ranked."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.waiting: defaultdict[int, deque[tuple[int, Job]]] = defaultdict(deque)
        self.heads: list[tuple[tuple[float, int], int]] = []  # a heap of ranks and their devices
        self.joined = 0

    def __bool__(self) -> bool:
        return bool(self.heads)

    def __iter__(self) -> Iterator[Job]:
        pairs = [pair for jobs in self.waiting.values() for pair in jobs]
        return (job for _, job in sorted(pairs, key=lambda pair: pair[0]))

    def join(self, job: Job) -> None:
        """A mini-batch finds no idle worker."""
        jobs = self.waiting[job.device.index]
        jobs.append((self.joined, job))
        self.joined += 1
        if len(jobs) == 1:
            self._rank(job.device.index)

    def take(self) -> Job:
        """The mini-batch that comes next, which is taken up."""
        _, device = heappop(self.heads)
        _, job = self.waiting[device].popleft()
        self.rule.taken(job)
        if self.waiting[device]:
            self._rank(device)
        return job

    def passes(self, job: Job) -> None:
        """A mini-batch is taken up without having waited."""
        self.rule.taken(job)

    def _rank(self, device: int) -> None:
        joined, job = self.waiting[device][0]
        heappush(self.heads, (self.rule.rank(job, joined), device))


class RoundRobin:
    """Devices take turns, upwards by their numbers; a round ends where none above waits."""

    def __init__(self) -> None:
        self.round, self.last = 0, -1

    def rank(self, job: Job, joined: int) -> tuple[float, int]:  # noqa: ARG002 (a Rule's)
        """This round for those above the last, the next one for all others."""
        index = job.device.index
        return self.round + (index <= self.last), index

    def taken(self, job: Job) -> None:
        """The turn goes on."""
        index = job.device.index
        self.round += index <= self.last
        self.last = index


class ShortestJob:
    """The least work first."""

    def rank(self, job: Job, joined: int) -> tuple[float, int]:
        """By work."""
        return job.batch.work_s, joined

    def taken(self, job: Job) -> None:
        """What was served decides nothing."""


class Fair:
    """The device first for which least work was taken up."""

    def __init__(self) -> None:
        self.served: defaultdict[int, float] = defaultdict(float)

    def rank(self, job: Job, joined: int) -> tuple[float, int]:  # noqa: ARG002 (a Rule's)
        """By the device's work so far."""
        return self.served[job.device.index], job.device.index

    def taken(self, job: Job) -> None:
        """The device has had more."""
        self.served[job.device.index] += job.batch.work_s


QUEUES: dict[Discipline, Callable[[], Queue]] = {
    "first-come": FirstCome,
    "round-robin": lambda: Ranked(RoundRobin()),
    "shortest-job": lambda: Ranked(ShortestJob()),
    "fair": lambda: Ranked(Fair()),
}
