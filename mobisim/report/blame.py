"""Blame: what the time on the critical path was spent on, worked out while spans stream by.

Each piece of work starts when the last of its causes is there. Following that cause backwards from
the end of the run gives a chain of spans that fills the makespan without a gap. Here the chain is
carried forwards: with each thing that can be a cause goes the blame of the chain that ends in it,
so that a million mini-batches need no second pass and no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from mobisim.span import (
    BACKWARD,
    DECODE,
    DEVICE,
    DOWNLINK,
    DOWNLOAD,
    ENCODE,
    FORWARD,
    LATENCY,
    PAUSE,
    QUEUE,
    SIDE_FORWARD,
    STEP,
    TRANSFER,
    UPLINK,
    WAIT,
    Row,
)
from mobisim.world import World


class Blame(NamedTuple):
    """Seconds along a chain of causes, by who spent them."""

    device: float = 0.0
    uplink: float = 0.0
    latency: float = 0.0
    server: float = 0.0
    downlink: float = 0.0

    @property
    def total(self) -> float:
        """The length of the chain."""
        return sum(self)

    @property
    def bottleneck(self) -> str:
        """Who spent most of it; a link answers for its latency."""
        shares = {
            "device": self.device,
            "uplink": self.uplink + self.latency,
            "server": self.server,
            "downlink": self.downlink,
        }
        return max(shares, key=shares.__getitem__)


_NOTHING = Blame()


class BlameFold:
    """Carries the blame of every chain that may yet turn out critical."""

    def __init__(self, world: World) -> None:
        self.roles = world.actors.roles.tolist()
        count = world.actors.num_devices
        self.flies = [world.groups[group].latency_s > 0 for group in world.group_of]
        self.device = [_NOTHING] * count  # of what each device did last
        self.link = [_NOTHING] * count  # of what each uplink carried last
        self.credit = [_NOTHING] * count  # of the step that last gave each device credit
        self.message: dict[tuple[int, int, int], Blame] = {}  # made, then carried, then arrived
        self.job: dict[tuple[int, int], Blame] = {}  # of a mini-batch's start at the server
        self.worker: dict[int, tuple[int, int, Blame]] = {}
        self.delivery: dict[int, Blame] = {}  # of what each downlink brought
        self.last_step = _NOTHING
        self.final = _NOTHING
        self.follow: dict[int, Callable[[Row], None]] = {
            **dict.fromkeys((FORWARD, ENCODE, BACKWARD), self._device_work),
            **dict.fromkeys((DECODE, SIDE_FORWARD), self._worker_work),
            TRANSFER: self._transfer,
            QUEUE: self._queue,
            LATENCY: self._latency,
            WAIT: self._wait,
            PAUSE: self._pause,
            DOWNLOAD: self._download,
            STEP: self._step,
        }

    def add(self, rows: list[Row]) -> Self:
        """Follow the chains through some more spans."""
        for row in rows:
            if not row[10]:  # what the horizon cut caused nothing
                self.follow[row[0]](row)
        return self

    def _device_work(self, row: Row) -> None:
        _, _, start, end, device, batch, tap, *_ = row
        on_device, uplink, latency, server, downlink = self.device[device]
        blame = Blame(on_device + (end - start), uplink, latency, server, downlink)
        self.device[device] = blame
        self.message[device, batch, tap] = blame

    def _transfer(self, row: Row) -> None:
        _, _, start, end, device, batch, tap, *_ = row
        on_device, uplink, latency, server, downlink = self.message[device, batch, tap]
        blame = Blame(on_device, uplink + (end - start), latency, server, downlink)
        self.link[device] = blame
        if self.flies[device]:
            self.message[device, batch, tap] = blame
        else:
            self._arrives(device, batch, tap, blame)

    def _arrives(self, device: int, batch: int, tap: int, blame: Blame) -> None:
        self.message[device, batch, tap] = blame
        if (device, batch) not in self.job:  # else a later part of a mini-batch known already
            self.job[device, batch] = blame
            self.credit[device] = blame

    def _queue(self, row: Row) -> None:
        _, actor, _, _, device, batch, tap, *_ = row
        if self.roles[actor] == UPLINK:
            self.message[device, batch, tap] = self.link[device]
        else:
            self.job[device, batch] = self.credit[device] = self.last_step

    def _latency(self, row: Row) -> None:
        _, actor, start, end, device, batch, tap, *_ = row
        if self.roles[actor] == DOWNLINK:
            brought = self.delivery[device]
            self.final = brought._replace(latency=brought.latency + (end - start))
            return
        before = self.message[device, batch, tap]
        blame = before._replace(latency=before.latency + (end - start))
        self._arrives(device, batch, tap, blame)

    def _download(self, row: Row) -> None:
        self.final = self.last_step._replace(downlink=row[3] - row[2])
        self.delivery[row[4]] = self.final

    def _wait(self, row: Row) -> None:
        _, actor, _, _, device, batch, tap, *_ = row
        if self.roles[actor] == DEVICE:
            self.device[device] = self.credit[device]
        else:
            self.worker[actor] = (device, batch, self.message[device, batch, tap])

    def _pause(self, row: Row) -> None:
        _, _, start, end, device, *_ = row
        before = self.device[device]
        self.device[device] = before._replace(device=before.device + (end - start))

    def _step(self, row: Row) -> None:
        if self.roles[row[1]] != DEVICE:
            self._worker_work(row)
            return
        self._device_work(row)
        self.final = self.device[row[4]]
        del self.message[row[4], row[5], row[6]]

    def _worker_work(self, row: Row) -> None:
        kind, actor, start, end, device, batch, tap, *_ = row
        at_hand = self.worker.get(actor)
        if at_hand is not None and at_hand[:2] == (device, batch):
            before = at_hand[2]
        else:
            before = self.job[device, batch]
        on_device, uplink, latency, server, downlink = before
        blame = Blame(on_device, uplink, latency, server + (end - start), downlink)
        self.worker[actor] = (device, batch, blame)
        if kind == STEP:
            self.final = self.last_step = blame
            del self.job[device, batch]
            self._forget(device, batch, tap)

    def _forget(self, device: int, batch: int, tap: int) -> None:
        if self.message.pop((device, batch, tap), None) is None:
            for key in [key for key in self.message if key[:2] == (device, batch)]:
                del self.message[key]
