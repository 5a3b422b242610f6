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
    DOWN,
    DOWNLINK,
    DOWNLOAD,
    ENCODE,
    FORWARD,
    JOINT,
    LATENCY,
    NONE,
    PAUSE,
    QUEUE,
    REPLY,
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


NOTHING = Blame()
ROUNDING = 1e-9  # of sums that ought to be an instant


def _is_at(blame: Blame, instant: float) -> bool:
    """Whether a chain ends at an instant, but for the rounding of its sum."""
    return abs(blame.total - instant) <= ROUNDING * instant


class BlameFold:
    """Carries the blame of every chain that may yet turn out critical."""

    def __init__(self, world: World) -> None:
        self.roles = world.actors.roles.tolist()
        count = world.actors.num_devices
        self.flies = [world.groups[group].latency_s > 0 for group in world.group_of]
        self.device = [NOTHING] * count  # of what each device did last
        self.link = [NOTHING] * count  # of what each uplink carried last
        self.credit = [NOTHING] * count  # of the step that last gave each device credit
        self.sets_out = [NOTHING] * count  # of when each device's last mere data was there
        self.resumed: dict[tuple[int, int], Blame] = {}  # of mini-batches begun after a wait
        self.mere_data = any(p.forward_s == 0 for b in world.all_batches for p in b.parts)
        self.reply: dict[tuple[int, int], Blame] = {}  # of what is on its way to a device
        self.answers = world.replies
        self.replied: dict[int, tuple[float, Blame]] = {}  # when each device's last reply was there
        self.message: dict[tuple[int, int, int], Blame] = {}  # made, then carried, then arrived
        self.job: dict[tuple[int, int], Blame] = {}  # of a mini-batch's start at the server
        self.caches = world.caches
        self.taken_up: dict[tuple[int, int], Blame] = {}  # of take-ups that another may follow
        self.left = world.total_batches  # of the devices' mini-batches, not stepped yet
        self.passed = NOTHING  # of the last of their steps
        self.worker: dict[int, tuple[int, int, Blame]] = {}
        self.world = world
        self.bounded = world.room is not None
        self.vanishes = [world.groups[group].vanishes for group in world.group_of]
        self.handed_over: dict[int, tuple[int, frozenset[int]]] = {}  # of the one at hand
        self.arrived = NOTHING  # of what came last
        self.up_at = -1.0  # when the server last came back
        self.delivery: dict[int, Blame] = {}  # of what each downlink brought
        self.last_step = NOTHING
        self.final = NOTHING
        self.follow, self.lost = self._followers(), self._losses()

    def _followers(self) -> dict[int, Callable[[Row], None]]:
        """What a span of each kind is followed by."""
        return {
            **dict.fromkeys((FORWARD, ENCODE), self._device_work),
            BACKWARD: self._backward,
            **dict.fromkeys((DECODE, SIDE_FORWARD), self._worker_work),
            TRANSFER: self._transfer,
            QUEUE: self._queue,
            LATENCY: self._latency,
            WAIT: self._wait,
            PAUSE: self._pause,
            DOWNLOAD: self._download,
            REPLY: self._reply,
            STEP: self._step,
            DOWN: self._down,
            JOINT: self._learned_from,
        }

    def _losses(self) -> dict[int, Callable[[Row], None]]:
        """The same of spans that were cut."""
        return {
            **dict.fromkeys((FORWARD, ENCODE), self._lost_work),
            TRANSFER: self._lost_transfer,
            DOWNLOAD: self._lost_download,
        }

    def add(self, rows: list[Row]) -> Self:
        """Follow the chains through some more spans."""
        for row in rows:
            if not row[10]:
                self.follow[row[0]](row)
            elif row[0] in self.lost:  # else it caused nothing, or a restart says what
                self.lost[row[0]](row)
        return self

    def _lost_work(self, row: Row) -> None:
        before = self.device[row[4]]
        self.device[row[4]] = before._replace(device=before.device + (row[3] - row[2]))

    def _lost_transfer(self, row: Row) -> None:
        _, _, start, end, device, batch, tap, *_ = row
        before = self.message.get((device, batch, tap)) or self._data(device, batch)
        self.link[device] = before._replace(uplink=before.uplink + (end - start))

    def _lost_download(self, row: Row) -> None:
        before = self.delivery.get(row[4], self.last_step)
        self.delivery[row[4]] = before._replace(downlink=before.downlink + (row[3] - row[2]))

    def _device_work(self, row: Row) -> None:
        _, _, start, end, device, batch, tap, *_ = row
        on_device, uplink, latency, server, downlink = self.device[device]
        blame = Blame(on_device + (end - start), uplink, latency, server, downlink)
        self.device[device] = blame
        if not self.vanishes[device] or self._hands_over(row):
            self.message[device, batch, tap] = blame

    def _set_out(self, row: Row) -> Blame:
        """Of a queued message: when its link was free, its device back, or the server had room."""
        end, device = row[3], row[4]
        before = self.link[device]
        if self.vanishes[device]:
            return before._replace(device=before.device + (end - before.total))
        if self.bounded and end > before.total * (1 + ROUNDING):
            before = self.last_step
            return before._replace(server=before.server + (end - before.total))
        return before

    def _hands_over(self, row: Row) -> bool:
        """Whether it is not a repetition of what led to a message handed over before."""
        kind, _, _, _, device, batch, tap, *_ = row
        number, taps = self.handed_over.get(device, (NONE, frozenset()))
        taps = taps if number == batch else frozenset()
        if tap in taps:
            return False
        parts = self.world.batch(device, batch).parts
        if kind == ENCODE or next(p for p in parts if p.tap == tap).encode_s == 0:
            self.handed_over[device] = batch, taps | {tap}
        return True

    def _backward(self, row: Row) -> None:
        self._device_work(row)
        if self.answers:  # else a step follows on the device
            self._is_done(row)

    def _is_done(self, row: Row) -> None:
        self.final = self.device[row[4]]
        del self.message[row[4], row[5], row[6]]

    def _transfer(self, row: Row) -> None:
        _, _, start, end, device, batch, tap, *_ = row
        before = self.message.get((device, batch, tap)) or self._data(device, batch)
        on_device, uplink, latency, server, downlink = before
        blame = Blame(on_device, uplink + (end - start), latency, server, downlink)
        self.link[device] = blame
        if self.flies[device]:
            self.message[device, batch, tap] = blame
        else:
            self._arrives(device, batch, tap, blame)

    def _data(self, device: int, batch: int) -> Blame:
        """Of a message that took the device no time: when it could first be sent."""
        before = self.resumed.pop((device, batch), None)
        if before is not None:
            self.sets_out[device] = before
        return self.sets_out[device]

    def _arrives(self, device: int, batch: int, tap: int, blame: Blame) -> None:
        self.message[device, batch, tap] = self.arrived = blame
        # A later part is of a mini-batch known already, unless that joins with its last.
        if (device, batch) not in self.job or self.vanishes[device]:
            self._joined(device, batch, blame)

    def _joined(self, device: int, batch: int, blame: Blame) -> None:
        self.job[device, batch] = self.credit[device] = blame
        if self.caches:
            self.taken_up[device, batch] = blame

    def _kept(self, device: int, batch: int) -> Blame:
        """Of what has no message: the server took it up with the mini-batch before it."""
        before = batch
        while before >= 0 and (device, before) not in self.taken_up:
            before -= 1
        blame = self.taken_up.get((device, before), NOTHING)
        self.job[device, batch] = self.taken_up[device, batch] = blame
        return blame

    def _down(self, row: Row) -> None:
        self.up_at = row[3]

    def _since_up(self, start: float, before: Blame) -> Blame:
        """Of what starts as the server comes back, since its cause: the restart is the server's."""
        if start != self.up_at:
            return before
        return before._replace(server=before.server + (start - before.total))

    def _queue(self, row: Row) -> None:
        _, actor, _, _, device, batch, tap, *_ = row
        if self.roles[actor] == UPLINK:
            self.message[device, batch, tap] = self._set_out(row)
        else:
            self._joined(device, batch, self._taken_up(row))

    def _taken_up(self, row: Row) -> Blame:
        """Of what waited: a worker was done; or enough had come, or the server waited no longer."""
        end, device, batch = row[3:6]
        if self.world.batching is None or end == self.up_at:
            return self._since_up(end, self.last_step)
        causes = (self.last_step, self.arrived)
        before = next((one for one in causes if _is_at(one, end)), None)
        if before is None:
            before = self.job.get((device, batch)) or self._kept(device, batch)
        return before._replace(server=before.server + (end - before.total))

    def _latency(self, row: Row) -> None:
        _, actor, start, end, device, batch, tap, *_ = row
        if self.roles[actor] == DOWNLINK:
            brought = self.delivery[device] if batch == NONE else self.reply[device, batch]
            self.final = brought._replace(latency=brought.latency + (end - start))
            if batch != NONE:
                self.reply[device, batch] = self.final
            return
        before = self.message[device, batch, tap]
        blame = before._replace(latency=before.latency + (end - start))
        self._arrives(device, batch, tap, blame)

    def _download(self, row: Row) -> None:
        at, replied = self.replied.get(row[4], (0.0, NOTHING))
        before = replied if at == row[2] else self.delivery.get(row[4], self.last_step)
        self.final = before._replace(downlink=before.downlink + (row[3] - row[2]))
        self.delivery[row[4]] = self.final

    def _reply(self, row: Row) -> None:
        _, _, start, end, device, batch, *_ = row
        before = self.reply[device, batch]
        self.final = before._replace(downlink=before.downlink + (end - start))
        self.reply[device, batch] = self.final

    def _wait(self, row: Row) -> None:
        _, actor, _, _, device, batch, tap, *_ = row
        if self.roles[actor] == DEVICE:
            reply = self.reply.pop((device, batch), None)
            if reply is not None:
                self.replied[device] = row[3], reply
            self.device[device] = self.credit[device] if reply is None else reply
            self._resumes(device, batch)
        else:
            self.worker[actor] = (device, batch, self.message[device, batch, tap])

    def _pause(self, row: Row) -> None:
        _, _, start, end, device, *_ = row
        if row[5] == NONE:
            before = self.delivery.get(device, self.last_step)
            self.delivery[device] = before._replace(device=before.device + (end - start))
            return
        before = self.device[device]
        self.device[device] = before._replace(device=before.device + (end - start))
        self._resumes(device, row[5])

    def _resumes(self, device: int, batch: int) -> None:
        if self.mere_data:
            self.resumed[device, batch] = self.device[device]

    def _step(self, row: Row) -> None:
        if self.roles[row[1]] != DEVICE:
            self._worker_work(row)
            return
        self._device_work(row)
        self._is_done(row)

    def _worker_work(self, row: Row) -> None:
        kind, actor, start, end, device, batch, *_ = row
        at_hand = self.worker.get(actor)
        if at_hand is not None and (
            at_hand[:2] == (device, batch) or self._follows(at_hand, start)
        ):
            before = at_hand[2]
        elif device == NONE:
            before = at_hand[2] if at_hand is not None and at_hand[0] == NONE else self.passed
        else:
            before = self.job.get((device, batch)) or self._kept(device, batch)
        on_device, uplink, latency, server, downlink = self._since_up(start, before)
        blame = Blame(on_device, uplink, latency, server + (end - start), downlink)
        self.worker[actor] = (device, batch, blame)
        if kind == STEP:
            self.final = self.last_step = blame
            if device == NONE:
                return
            self._learned_from(row)
            if not self.left:
                self.passed = blame
            if self.answers:
                self.reply[device, batch] = blame

    def _follows(self, at_hand: tuple[int, int, Blame], start: float) -> bool:
        """Whether a worker goes on with the next of what it takes together."""
        return self.world.batching is not None and _is_at(at_hand[2], start)

    def _learned_from(self, row: Row) -> None:
        """A mini-batch is stepped, alone or with another."""
        device, batch, tap = row[4:7]
        self.left -= 1
        self.job.pop((device, batch), None)
        self.taken_up.pop((device, batch - 1), None)
        self._forget(device, batch, tap)

    def _forget(self, device: int, batch: int, tap: int) -> None:
        if self.message.pop((device, batch, tap), None) is None:
            for key in [key for key in self.message if key[:2] == (device, batch)]:
                del self.message[key]
