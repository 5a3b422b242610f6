"""Blame where there are rounds: chains of causes from one version to the next.

A deadline that ends a round is the server's: it chose to wait that long.
"""

from __future__ import annotations

from typing import Self

from mobisim.report.blame import NOTHING, ROUNDING, Blame
from mobisim.span import (
    BACKWARD,
    DEVICE,
    DOWNLINK,
    DOWNLOAD,
    ENCODE,
    FORWARD,
    LATENCY,
    MERGE,
    NONE,
    QUEUE,
    REPLY,
    STEP,
    TRANSFER,
    UPDATE,
    UPLINK,
    WAIT,
    Row,
)
from mobisim.world import World


class RoundBlame:
    """Carries the blame of every chain that may yet turn out critical."""

    def __init__(self, world: World) -> None:
        assert world.rounds is not None
        count = world.actors.num_devices
        self.roles = world.actors.roles.tolist()
        self.flies = [world.groups[group].latency_s > 0 for group in world.group_of]
        self.local = world.rounds.local.tolist()
        self.learns_with = BACKWARD if world.replies else UPDATE  # what ends a mini-batch
        self.job = [NOTHING] * count  # of each device's mini-batch at the server
        self.freed = NOTHING  # of what a worker did last for one
        self.bounded = world.room is not None
        self.device = [NOTHING] * count  # of what each device did last
        self.link = [NOTHING] * count  # of what each uplink carried last
        self.model = [NOTHING] * count  # of what each downlink brought last
        self.message: dict[tuple[int, int], Blame] = {}  # made, then carried
        self.arrivals: list[tuple[float, Blame]] = []  # at the server since the last step
        self.versions = [(0.0, NOTHING)]  # when the round of each began, and what led to it
        self.worker: Blame | None = None  # of what this round's average has come to
        self.final = NOTHING

    def add(self, rows: list[Row]) -> Self:
        """Follow the chains through some more spans."""
        for row in rows:
            if not row[10]:  # what the horizon cut caused nothing
                self._follow(row)
        return self

    def _follow(self, row: Row) -> None:
        kind, role = row[0], self.roles[row[1]]
        if kind in (MERGE, STEP):
            self._average(row)
        elif role == DEVICE:
            self._device(row)
        elif role == UPLINK:
            self._uplink(row)
        elif role == DOWNLINK:
            self._downlink(row)
        elif row[8] == NONE:
            self._server(row)

    def _device(self, row: Row) -> None:
        kind, _, start, end, device, batch, *_ = row
        if kind == WAIT:
            self.device[device] = self.model[device]
            return
        before = self.device[device]
        self.final = self.device[device] = before._replace(device=before.device + (end - start))
        ends_round = kind == self.learns_with and (batch + 1) % self.local[device] == 0
        if ends_round or (kind in (FORWARD, ENCODE) and self.learns_with == BACKWARD):
            self.message[device, batch] = self.final

    def _uplink(self, row: Row) -> None:
        kind, _, start, end, device, batch, *_ = row
        if kind == QUEUE:
            self.message[device, batch] = self._set_out(device, end)
            return
        before = self.message[device, batch]
        if kind == TRANSFER:
            self.link[device] = before._replace(uplink=before.uplink + (end - start))
            self.message[device, batch] = self.final = self.link[device]
        else:
            self.final = before._replace(latency=before.latency + (end - start))
        if kind == LATENCY or not self.flies[device]:
            self._arrives(row)

    def _set_out(self, device: int, at: float) -> Blame:
        """Of a queued message: when its link was free, or the server had room."""
        before = self.link[device]
        if self.bounded and at > before.total * (1 + ROUNDING):
            return self.freed._replace(server=self.freed.server + (at - self.freed.total))
        return before

    def _arrives(self, row: Row) -> None:
        del self.message[row[4], row[5]]
        if row[8] == NONE:
            self.job[row[4]] = self.final
        else:
            self.arrivals.append((row[3], self.final))

    def _server(self, row: Row) -> None:
        """A mini-batch of a model that is cut in two."""
        kind, _, start, end, device, *_ = row
        if kind == QUEUE:
            self.job[device] = self.freed
            return
        before = self.job[device]
        self.final = self.job[device] = before._replace(server=before.server + (end - start))
        if kind == UPDATE:
            self.freed = self.final

    def _downlink(self, row: Row) -> None:
        kind, _, start, end, device, *_ = row
        if kind == DOWNLOAD:
            before = self._called(row)
            found = before._replace(downlink=before.downlink + (end - start))
        elif kind == REPLY:
            before = self.job[device]
            found = before._replace(downlink=before.downlink + (end - start))
        else:
            before = self.model[device]
            found = before._replace(latency=before.latency + (end - start))
        self.final = self.model[device] = found

    def _called(self, row: Row) -> Blame:
        """What led to a download."""
        begun_s, version = self.versions[row[8]]  # the last one where it is delivered
        return version if row[2] == begun_s else self.model[row[4]]

    def _average(self, row: Row) -> None:
        kind, _, start, end, *_ = row
        before = self.worker or self._over(start)
        found = before._replace(server=before.server + (end - start))
        self.final = self.worker = found
        if kind == STEP:
            self.worker = None
            self.versions.append((end, found))
            self.arrivals.clear()

    def _over(self, at: float) -> Blame:
        """Of what ended the round: the update that came then, or the deadline."""
        came = next((blame for end, blame in self.arrivals if end == at), None)
        if came is not None:
            return came
        begun_s, version = self.versions[-1]
        return version._replace(server=version.server + (at - begun_s))


class BufferBlame(RoundBlame):
    """The same where devices are called one by one, each for an update that the worker took in."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.came: dict[int, tuple[float, Blame]] = {}  # of each device's update
        self.calls: dict[float, Blame] = {}  # by when the worker had taken something in
        self.taken = NOTHING  # of what the worker did last

    def _arrives(self, row: Row) -> None:
        del self.message[row[4], row[5]]
        self.came[row[4]] = row[3], self.final

    def _average(self, row: Row) -> None:
        kind, _, start, end, device, *_ = row
        before = self.taken
        if kind == MERGE:
            came_s, blame = self.came.pop(device)
            before = blame if came_s == start else before
        else:
            self.calls.pop(start, None)  # which the buffer's last update has not led to
        self.final = self.taken = before._replace(server=before.server + (end - start))
        self.calls[end] = self.taken

    def _called(self, row: Row) -> Blame:
        """What led to a download that begins once the worker has taken something in."""
        if row[8] == NONE:
            return self.calls.get(row[2], self.model[row[4]])  # all are, by the last step
        return self.calls.pop(row[2], NOTHING)


def round_blame(world: World) -> RoundBlame:
    """What carries the blame of a world with rounds."""
    assert world.rounds is not None
    return RoundBlame(world) if world.rounds.calls is None else BufferBlame(world)
