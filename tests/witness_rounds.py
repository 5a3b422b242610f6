"""The second engine where there are rounds: written from DESIGN.md's rules alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from witness import Device, Engine, Message, Work, Worker

from mobisim.span import NONE
from mobisim.world import Part, World


class RoundsEngine(Engine):
    """Devices that train apart, round by round, and the worker that averages."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        assert world.rounds is not None
        self.rounds = world.rounds
        self.round = 0
        self.is_open = self.is_due = False
        self.came: list[tuple[Message, float]] = []
        self.times = [0] * len(self.devices)
        self.trains_for = [NONE] * len(self.devices)
        self.there = [NONE] * len(self.devices)
        self.in_line: dict[int, tuple[int, int]] = {}

    def begin(self) -> None:
        """All wait, and the first round begins."""
        for device in self.devices:
            device.doing = Work("wait", device.index, self.now, device.index)
        self.round_begins()

    # -- a round

    def round_begins(self) -> None:
        """Its version sets out to those who were selected; the time runs."""
        self.is_open, self.is_due = True, False
        for index in self.rounds.selected[self.round]:
            first = self.times[index] * int(self.rounds.local[index])
            self.times[index] += 1
            self.sends_down(self.devices[index], first, self.round)
        if self.rounds.deadline_s is not None:
            rank = len(self.workers) + len(self.devices)
            self.at(self.now + self.rounds.deadline_s, rank, partial(self.deadline, self.round))

    def deadline(self, of: int) -> None:
        """A round that is still open is over as soon as something has come."""
        if self.is_open and of == self.round:
            self.is_due = True
            if self.came:
                self.round_is_over()

    def message_arrives(self, device: Device, message: Message) -> None:
        """What was learned counts while its round is open; a mini-batch is worked on."""
        if message.part.version == NONE:
            super().message_arrives(device, message)
            return
        if not self.is_open or message.part.version != self.round:
            return
        self.came.append((message, self.now))
        if self.is_due or len(self.came) == self.rounds.awaited:
            self.round_is_over()

    def round_is_over(self) -> None:
        """The first worker averages."""
        self.is_open = False
        self.averages(self.factor(self.world.step_distribution, "worker-0/step"))

    def averages(self, factor: float) -> None:
        """The next of what came, or the step."""
        actor = self.world.actors.worker(0)
        if not self.came:
            step = Work("step", actor, self.now, NONE, self.round, version_read=self.round)
            self.workers[0].doing = step
            self.at(self.now + self.rounds.average_s * factor, 0, self.stepped)
            return
        message, since = self.came.pop(0)
        self.write(self.waits_to_be_merged(message, since))
        self.workers[0].doing = Work(
            "merge", actor, self.now, message.device, message.batch, version_read=self.round
        )
        exchange = self.devices[message.device].group.exchange
        assert exchange is not None
        self.at(self.now + exchange.merge_s * factor, 0, lambda: self.merged(factor))

    def merged(self, factor: float) -> None:
        """On with the next."""
        doing = self.workers[0].doing
        assert doing is not None
        self.write(doing)
        self.averages(factor)

    def stepped(self) -> None:
        """A version more: the next round, or the end."""
        doing = self.workers[0].doing
        assert doing is not None
        self.round += 1
        self.write(doing, version_written=self.round)
        self.workers[0].doing = None
        if self.round < self.rounds.count:
            self.round_begins()
            return
        for device in self.devices:
            if device.doing is not None and device.doing.kind == "wait":
                device.doing = None
        for device in self.devices if self.world.deliver else []:
            self.sends_down(device, NONE, NONE)

    def waits_to_be_merged(self, message: Message, since: float) -> Work:
        """The wait of what came."""
        place = (message.device, message.batch)
        return Work("queue", self.world.actors.server, since, *place, version_read=self.round)

    def queued_at_server(self) -> Iterator[Work]:
        """What came and is not taken up yet."""
        yield from (self.waits_to_be_merged(*one) for one in self.came)
        yield from super().queued_at_server()

    # -- the server's half of a model that is cut in two

    def credit(self, device: Device) -> None:
        """There is none within a round."""

    def work(self, worker: Worker, kind: str, length: float, handle: Callable[[], None]) -> None:
        """What ends a mini-batch makes no version."""
        if kind != "step":
            super().work(worker, kind, length, handle)
            return
        job = worker.job
        assert job is not None
        actor = self.world.actors.worker(worker.index)
        worker.doing = Work("update", actor, self.now, job.device, job.batch)
        self.at(self.now + length, worker.index, handle)

    def step_ends(self, worker: Worker) -> None:
        """The reply sets out."""
        assert worker.doing is not None
        assert worker.job is not None
        self.write(worker.doing)
        self.reply_begins(self.devices[worker.job.device], worker.job.batch)
        worker.job = worker.doing = None
        if self.queue:
            self.take_up(worker)

    # -- downlink

    def sends_down(self, device: Device, first: int, version: int) -> None:
        """A version sets out, or waits for the downlink in place of another."""
        if device.receiving is not None:
            self.in_line[device.index] = first, version
            return
        actor, group = self.world.actors.downlink(device.index), device.group
        exchange = group.exchange
        assert exchange is not None
        size, seconds = exchange.down_bytes, exchange.down_s
        if version == NONE:
            size, seconds = group.download_bytes, group.download_s
        device.receiving = Work(
            "download", actor, self.now, device.index, first, NONE, size, version
        )
        own = (actor, group.downlink, group.downlink_bits_per_s, seconds)
        self.carry(device, self.downlinks, own, size, lambda: self.download_ends(device))

    def download_ends(self, device: Device) -> None:
        """It travels on, where that takes time."""
        work, group = device.receiving, device.group
        assert work is not None
        self.write(work)
        if group.latency_s == 0:
            self.has_arrived(device, work)
            return
        device.receiving = Work(
            "latency", work.actor, self.now, device.index, work.batch,
            version_read=work.version_read,
        )  # fmt: skip
        factor = self.factor(group.latency_distribution, f"uplink-{device.index}/latency")
        self.at_device(self.now + group.latency_s * factor, device, lambda: self.delivered(device))

    def delivered(self, device: Device) -> None:
        """It is there."""
        work = device.receiving
        assert work is not None
        self.write(work)
        self.has_arrived(device, work)

    def has_arrived(self, device: Device, work: Work) -> None:
        """Who waits may go on; the downlink takes up what waited for it."""
        device.receiving = None
        if device.index in self.in_line:
            self.sends_down(device, *self.in_line.pop(device.index))
        if work.version_read != NONE:
            self.there[device.index] = work.version_read
            waits = device.doing is not None and device.doing.kind == "wait"
            if waits and not device.awaits_reply:
                self.begins_round(device)
        elif work.batch != NONE:
            self.reply_is_there(device)

    # -- device

    def counts(self, version: int) -> bool:
        """What is learned of a version."""
        return self.is_open and version == self.round

    def begins_round(self, device: Device) -> None:
        """Where the newest version is that of the open round."""
        index = device.index
        if not self.counts(self.there[index]):
            return
        assert device.doing is not None
        self.write(device.doing)
        device.doing = None
        self.trains_for[index], self.there[index] = self.there[index], NONE
        device.batch = (self.times[index] - 1) * int(self.rounds.local[index])
        self.goes_on(device)

    def goes_on(self, device: Device) -> None:
        """The next mini-batch, the update, or nothing more for a round that is over."""
        index = device.index
        if not self.counts(self.trains_for[index]):
            self.has_no_work(device)
        elif device.batch == self.times[index] * self.rounds.local[index]:
            self.hands_over(device)
            self.has_no_work(device)
        elif not self.is_away(device) and (device.has_rested or not self.rests(device)):
            self.forward_begins(device)

    def has_no_work(self, device: Device) -> None:
        """Wait for the next round, if there is any."""
        device.doing = None
        if self.round < self.rounds.count:
            device.doing = Work("wait", device.index, self.now, device.index)
            self.begins_round(device)

    def hands_over(self, device: Device) -> None:
        """What was learned goes to the uplink."""
        exchange = device.group.exchange
        assert exchange is not None
        read = self.trains_for[device.index]
        part = Part(NONE, 0, 0, exchange.up_bytes, exchange.up_s, 0, 0, read)
        message = Message(device.index, device.batch - 1, part, self.now)
        if device.carrying is None:
            self.transfer_begins(device, message)
        else:
            device.queued.append(message)

    def is_forwarded(self, device: Device, part: Part) -> None:
        """Backward, where that takes time, and update follow; or what is sent to the server."""
        if not self.world.on_device:
            super().is_forwarded(device, part)
        elif device.numbers(device.batch).backward_s > 0:
            self.trains(device, "backward", lambda: self.trains(device, "update", None))
        else:
            self.trains(device, "update", None)

    def device_is_free(self, device: Device) -> None:
        """After a reply."""
        self.goes_on(device)

    def trained(self, device: Device, then: Callable[[], None] | None) -> None:
        """On with the update, or with what comes next."""
        self.has_computed(device)
        if then is not None:
            then()
            return
        device.batch += 1
        self.goes_on(device)

    def is_back(self, device: Device) -> None:
        """There again."""
        assert device.doing is not None
        self.write(device.doing)
        self.goes_on(device)

    def rest_ends(self, device: Device) -> None:
        """Charged, or rested as long as was stated."""
        assert device.doing is not None
        assert device.group.battery is not None
        self.write(device.doing)
        device.has_rested = device.group.battery.duty is not None
        self.goes_on(device)


class BufferedEngine(RoundsEngine):
    """Devices that are called one by one: a version comes of every so many updates."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        assert self.rounds.calls is not None
        self.stands = self.rounds.calls.line.tolist()
        self.read: list[int] = []
        self.scale = 1.0

    def round_begins(self) -> None:
        """The only one: as many as are to be at work at once are called."""
        self.is_open = True
        assert self.rounds.calls is not None
        for _ in range(self.rounds.calls.at_work):
            self.calls_one()

    def calls_one(self) -> None:
        """Who has stood longest gets the newest version."""
        index = self.stands.pop(0)
        first = self.times[index] * int(self.rounds.local[index])
        self.times[index] += 1
        self.sends_down(self.devices[index], first, self.round)

    def message_arrives(self, device: Device, message: Message) -> None:  # noqa: ARG002
        """It is taken in at once, or waits for its turn."""
        if self.round == self.rounds.count:
            return
        self.came.append((message, self.now))
        if self.workers[0].doing is None:
            self.takes_in()

    def takes_in(self) -> None:
        """The update that has waited longest, if any has."""
        if not self.came:
            return
        if not self.read:
            self.scale = self.factor(self.world.step_distribution, "worker-0/step")
        message, since = self.came.pop(0)
        self.write(self.waits_to_be_merged(message, since))
        device, version = message.device, message.part.version
        actor = self.world.actors.worker(0)
        self.workers[0].doing = Work(
            "merge", actor, self.now, device, message.batch, version_read=version
        )
        exchange = self.devices[device].group.exchange
        assert exchange is not None
        self.at(self.now + exchange.merge_s * self.scale, 0, lambda: self.is_in(device, version))

    def is_in(self, device: int, version: int) -> None:
        """The last that the buffer takes leads to a step, any other to a call."""
        doing = self.workers[0].doing
        assert doing is not None
        self.write(doing)
        self.read.append(version)
        if len(self.read) < self.rounds.awaited:
            self.calls_for(device)
            return
        actor, read = self.world.actors.worker(0), min(self.read)
        self.workers[0].doing = Work("step", actor, self.now, NONE, self.round, version_read=read)
        self.at(self.now + self.rounds.average_s * self.scale, 0, lambda: self.is_full(device))

    def is_full(self, device: int) -> None:
        """A version more, and a call; or the end of it all."""
        doing = self.workers[0].doing
        assert doing is not None
        self.read.clear()
        if self.round + 1 == self.rounds.count:
            self.is_open = False
            self.came.clear()
            self.stepped()
            return
        self.round += 1
        self.write(doing, version_written=self.round)
        self.calls_for(device)

    def calls_for(self, device: int) -> None:
        """Who was taken in stands last; the worker goes on once the first is called."""
        self.workers[0].doing = None
        self.stands.append(device)
        self.calls_one()
        self.takes_in()

    def waits_to_be_merged(self, message: Message, since: float) -> Work:
        """The wait of what came, whatever it began from."""
        place, version = (message.device, message.batch), message.part.version
        return Work("queue", self.world.actors.server, since, *place, version_read=version)

    def counts(self, version: int) -> bool:
        """All that is learned of any version."""
        return self.is_open and version != NONE


def engine_of(world: World) -> RoundsEngine:
    """The engine of a world with rounds."""
    assert world.rounds is not None
    return RoundsEngine(world) if world.rounds.calls is None else BufferedEngine(world)
