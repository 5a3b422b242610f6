"""The server's side of rounds: who takes part, what counts, and the worker that averages it.

Actors are callbacks, as in device.py. The rules are DESIGN.md's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from mobisim.sim.job import Client, Sender
from mobisim.sim.kernel import Alarm
from mobisim.sim.participant import Participant
from mobisim.sim.scene import Scene
from mobisim.sim.server import Server, Worker
from mobisim.span import MERGE, NONE, QUEUE, STEP, UPDATE, Row
from mobisim.world import Batch, Part


class HalfModels(Server):
    """What a server trains for devices that have models cut in two: of each a copy."""

    def worker(self, index: int) -> Worker:
        """One of the workers."""
        return HalfModelWorker(self.scene, self, index)

    def stepped(self, num_batches: int) -> int:  # noqa: ARG002 - a round counts what it merges
        """No version that others know of."""
        return NONE


class HalfModelWorker(Worker):
    """Updates the copy of the device whose mini-batch it has."""

    ends_with = UPDATE


class Update(NamedTuple):
    """What a device has learned, once it is at the server."""

    device: int
    number: int
    part: Part
    since: float


class Coordinator:
    """Selects devices, waits for what they learn, and has the first worker average it."""

    def __init__(self, scene: Scene) -> None:
        assert scene.world.rounds is not None
        self.scene, self.rounds = scene, scene.world.rounds
        self.devices: list[Participant] = []
        self.halves = HalfModels(scene)
        self.merger = Merger(scene, self, self.halves.workers[0])
        self.actor = scene.world.actors.server
        self.version = 0
        self.open = False
        self.overdue = False
        self.updates: deque[Update] = deque()  # in the order of their arrival

    @property
    def workers(self) -> Sequence[Merger | Worker]:
        """Who computes; the merger is the first worker, too."""
        return [self.merger, *self.halves.workers]

    @property
    def is_over(self) -> bool:
        """Whether all rounds are done."""
        return self.version == self.rounds.count

    def is_open(self, version: int) -> bool:
        """Whether what is learned from a version still counts."""
        return self.open and version == self.version

    def begin(self) -> None:
        """A round: the version sets out to those who take part."""
        self.open, self.overdue = True, False
        env, deadline_s = self.scene.env, self.rounds.deadline_s
        for index in self.rounds.selected[self.version].tolist():
            self.devices[index].selected(self.version)
        if deadline_s is not None:
            closes = partial(self._is_due, self.version)
            Alarm(env, env.now + deadline_s, self.scene.world.last_rank, closes)

    def _is_due(self, version: int, _: Any) -> None:
        if not self.is_open(version):
            return
        self.overdue = True
        if self.updates:
            self._close()

    def arrives(self, device: Client, number: int, batch: Batch, now: float) -> None:
        """What a device has learned is here, which counts while its round is open.

        Or else a mini-batch of a model that is cut in two.
        """
        (part,) = batch.parts
        if part.version == NONE:
            self.halves.arrives(device, number, batch, now)
            return
        if not self.is_open(part.version):
            return
        self.updates.append(Update(device.index, number, part, now))
        self._came()

    def _came(self) -> None:
        """One update more is here."""
        if self.overdue or len(self.updates) == self.rounds.awaited:
            self._close()

    def has_room(self, sender: Sender, part: Part) -> bool:
        """Always for what was learned, which waits for its round's end and for no worker."""
        return part.version != NONE or self.halves.has_room(sender, part)

    def _close(self) -> None:
        self.open = False
        self.merger.begins()
        self._goes_on()

    def _goes_on(self) -> None:
        """The worker merges what is left of the round, then steps."""
        if self.updates:
            self.merger.merge(self._next_update())
        else:
            self.merger.step(self.version, self.version)

    def _next_update(self) -> Update:
        """The worker takes up what came first."""
        update, now = self.updates.popleft(), self.scene.env.now
        if now > update.since:
            self.scene.rows.append(self._queue_row(update, now, cut=False))
        return update

    def merged(self, update: Update) -> None:  # noqa: ARG002
        """An update is added up."""
        self._goes_on()

    def averaged(self) -> None:
        """A new version is there."""
        self.version += 1
        if self.is_over:
            self._ends()
        else:
            self.begin()

    def _ends(self) -> None:
        for device in self.devices:
            device.dismissed()
        if self.scene.world.deliver:
            for device in self.devices:
                device.deliver()

    def _queue_row(self, update: Update, end: float, *, cut: bool) -> Row:
        return (
            QUEUE, self.actor, update.since, end, update.device, update.number, NONE,
            NONE, update.part.version, NONE, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> Iterator[Row]:
        """The rows of what waits to be averaged, and of the mini-batches that wait."""
        yield from (self._queue_row(update, end, cut=True) for update in self.updates)
        yield from self.halves.open_rows(end)


class Merger:
    """The worker that averages: it adds up what came, then steps."""

    def __init__(self, scene: Scene, coordinator: Coordinator, worker: Worker) -> None:
        self.scene, self.coordinator, self.rounds = scene, coordinator, coordinator.rounds
        self.actor = scene.world.actors.worker(0)
        self.doing = NONE
        self.since = 0.0
        self.of = (NONE, NONE, NONE)  # the device, the number and the version of what it does
        self.step_factor = worker.step_factor  # one stream for all that the worker does
        self.factor = 1.0

    def begins(self) -> None:
        """A version is begun."""
        if self.step_factor is not None:
            self.factor = self.step_factor()

    def merge(self, update: Update) -> None:
        """Add up what a device has learned."""
        part = update.part
        self.of = update.device, update.number, part.version
        self._work(MERGE, part.decode_s, NONE, partial(self.coordinator.merged, update))

    def step(self, number: int, version_read: int) -> None:
        """Make a version of what was added up; it began with that one."""
        self.of = NONE, number, version_read
        self._work(STEP, self.rounds.average_s, number + 1, self.coordinator.averaged)

    def _work(self, kind: int, seconds: float, written: int, then: Callable[[], None]) -> None:
        self.doing, self.since = kind, self.scene.env.now
        ended = partial(self._ended, written, then)
        Alarm(self.scene.env, self.since + seconds * self.factor, 0, ended)

    def _ended(self, written: int, then: Callable[[], None], _: Any) -> None:
        self.scene.rows.append(self._row(self.scene.env.now, written, cut=False))
        self.doing = NONE
        then()

    def _row(self, end: float, written: int, *, cut: bool) -> Row:
        device, number, version = self.of
        return (
            self.doing, self.actor, self.since, end, device, number, NONE,
            NONE, version, written, cut,
        )  # fmt: skip

    def open_rows(self, end: float) -> list[Row]:
        """The row of what the worker is doing."""
        return [] if self.doing == NONE else [self._row(end, NONE, cut=True)]
