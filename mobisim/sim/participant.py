"""The device's side of rounds: it trains from what all have learned, and sends what it learned.

Actors are callbacks, as in device.py. The rules are DESIGN.md's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobisim.sim.device import Device
from mobisim.sim.link import Downlink
from mobisim.sim.scene import Scene
from mobisim.span import DOWNLOAD, NONE, UPDATE, WAIT, Row
from mobisim.world import Batch, Group, Part

if TYPE_CHECKING:
    from mobisim.sim.rounds import Coordinator


class Participant(Device):
    """Trains for the round that it is selected for, and sends what it has learned."""

    updates = UPDATE

    def __init__(self, scene: Scene, group: Group, index: int, server: Coordinator) -> None:
        super().__init__(scene, group, index, server)
        assert scene.world.rounds is not None
        self.coordinator = server
        self.downlink: Models = Models(scene, self)
        self.local = int(scene.world.rounds.local[index])
        self.times = 0  # that it was selected
        self.version = NONE  # which it trains from
        self.model = NONE  # the newest that is there
        self.doing = WAIT

    def numbers(self, number: int) -> Batch:
        """The times of a mini-batch; they begin anew when all were worked through."""
        return super().numbers(number % self.num_batches)

    def selected(self, version: int) -> None:
        """The device takes part in a round: what all have learned sets out to it."""
        first = self.times * self.local
        self.times += 1
        self.downlink.broadcast(first, version)

    def receives(self, version: int) -> None:
        """A version is here."""
        self.model = version
        if self.doing == WAIT and not self.awaits_reply:
            self._look()

    def _look(self) -> None:
        """Begin the round that the newest version is for, if that is open."""
        if not self.coordinator.is_open(self.model):
            return
        now = self.scene.env.now
        if now > self.since:
            self._write()
        self.version, self.model, self.since = self.model, NONE, now
        self.number = (self.times - 1) * self.local
        self._go_on()

    def step_starts(self) -> None:
        """Nobody waits for credit within a round."""

    def _forwarded(self, event: Any) -> None:
        if self.scene.world.on_device and self.batch.backward_s == 0.0:
            self._train(self.updates, self.batch.step_s, self._stepped)
        else:
            super()._forwarded(event)

    def next_batch(self) -> None:
        """On to the next mini-batch."""
        self.number += 1
        self._go_on()

    def _go_on(self) -> None:
        """Begin a mini-batch; or send what was learned of all of them; or give up."""
        if not self.coordinator.is_open(self.version):
            self._is_idle()
        elif self.number < self.times * self.local:
            self.batch = self.numbers(self.number)
            self.part = self.handed_over = 0
            self._begin()
        else:
            self._upload()
            self._is_idle()

    def _rested(self, _: Any) -> None:
        self._write()
        self._go_on()

    def _upload(self) -> None:
        exchange = self.group.exchange
        assert exchange is not None
        part = Part(
            NONE, 0.0, 0.0, exchange.up_bytes, exchange.up_s, exchange.merge_s, 0.0, self.version
        )
        self.uplink.send(self.number - 1, Batch((part,), 0.0), part, self.scene.env.now)

    def _is_idle(self) -> None:
        self.doing, self.since = WAIT, self.scene.env.now
        self.version = NONE
        if self.coordinator.is_over:
            self.dismissed()
        else:
            self._look()

    def dismissed(self) -> None:
        """There are no more rounds."""
        if self.doing == WAIT:
            self.doing = NONE

    def open_row(self, end: float, *, cut: bool) -> Row:
        """The row of what the device is doing; who waits for a round knows of no mini-batch."""
        if self.doing == WAIT and self.version == NONE:
            return (
                WAIT, self.index, self.since, end, self.index, NONE, NONE, NONE, NONE, NONE, cut,
            )  # fmt: skip
        return super().open_row(end, cut=cut)


class Models(Downlink):
    """Brings a device versions, one after the other; of those that wait the newest alone."""

    def __init__(self, scene: Scene, device: Participant) -> None:
        super().__init__(scene, device)
        self.participant = device
        self.waiting: tuple[int, int] | None = None

    def broadcast(self, number: int, version: int) -> None:
        """A version sets out, for a round that begins with that mini-batch."""
        if self.kind == NONE:
            self._sets_out(number, version)
        else:
            self.waiting = number, version

    def reply(self, number: int, batch: Batch) -> None:
        """What a device waits for sets out: nothing else does while the round is open."""
        self.version = NONE
        super().reply(number, batch)

    def deliver(self) -> None:
        """What all have learned in the end sets out, in place of any version that waits."""
        self.broadcast(NONE, NONE)

    def _sets_out(self, number: int, version: int) -> None:
        group, self.version = self.device.group, version
        exchange = group.exchange
        assert exchange is not None
        if version == NONE:
            self._carry(DOWNLOAD, NONE, group.download_bytes, group.download_s)
        else:
            self._carry(DOWNLOAD, number, exchange.down_bytes, exchange.down_s)

    def _arrives(self) -> None:
        self.kind, version, number = NONE, self.version, self.number
        if self.waiting is not None:
            following, self.waiting = self.waiting, None
            self._sets_out(*following)
        if version != NONE:
            self.participant.receives(version)
        elif number != NONE:
            self.participant.replied()
