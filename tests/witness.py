"""A second engine: event handlers on a bare heap, written from DESIGN.md's "The timeline" alone.

It shares nothing with mobisim.sim, so that both can only agree where both follow the description.
It takes a world's numbers, and for scenarios of stated times works those out a second time too.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import chain, pairwise

import numpy as np
from witness_cells import Cell, Flow
from witness_links import Pipe, stated_channels, stated_rate, whole_bytes, windows_of

from mobisim.channel import Channel
from mobisim.scenario.profiles import FixedDevice, FixedServer
from mobisim.scenario.schema import DeviceGroup, Scenario
from mobisim.scenario.traces import mean_rate
from mobisim.span import KIND_CODE, NONE, Row, Span
from mobisim.streams import Distribution
from mobisim.world import Batch, CellRates, Group, Heat, Part, World

Z90 = 1.2815515655446004  # a normal law's ninetieth percentile, in deviations


def simulate(world: World) -> list[Span]:
    """Every span of `world`, in the order of rows."""
    from witness_batching import BatchingEngine  # noqa: PLC0415 - which builds on this one
    from witness_rounds import engine_of  # noqa: PLC0415 - as does this

    engine = Engine(world) if world.rounds is None else engine_of(world)
    if world.batching is not None:
        engine = BatchingEngine(world)
    return [Span(*row) for row in engine.run()]


Path = tuple[int, Channel | None, float, float]  # actor, channel, rate and seconds of a message


@dataclass
class Work:
    """Something under way: a piece of work or a wait, as far as it is known before it ends."""

    kind: str
    actor: int
    start: float
    device: int
    batch: int = NONE
    tap: int = NONE
    num_bytes: int = NONE
    version_read: int = NONE


@dataclass
class Message:
    """One part on its way from device to server."""

    device: int
    batch: int
    part: Part
    handed_over: float = math.nan


@dataclass(eq=False)
class Job:
    """A mini-batch at the server; `arrived` of its parts are there."""

    device: int
    batch: int
    numbers: Batch
    joined: float
    arrived: int = 0
    version_read: int = NONE
    factor: float = 1.0
    position: int = 0
    worker: Worker | None = None

    @property
    def work_s(self) -> float:
        """What is stated for its worker: the exact sum, rounded once."""
        stated = [self.numbers.cached_s, self.numbers.step_s]
        for part in self.numbers.parts:
            stated += [part.decode_s, part.side_forward_s]
        return float(sum(map(Fraction, stated)))


@dataclass
class Device:
    """A device with its links: what each does now, and what waits."""

    index: int
    group: Group
    first: int
    num_batches: int
    batch: int = 0
    part: int = 0
    taken_up: int = 0
    joined: int = 0
    awaits_reply: bool = False
    has_rested: bool = False
    away: Iterator[tuple[float, float]] | None = None
    next_absence: tuple[float, float] | None = None
    watched: float | None = None  # the abrupt absence on the agenda
    handed_over: int = 0  # parts of the mini-batch at hand
    drawn_for: int = NONE
    lives: int = 0  # how often its work was lost
    sendings: int = 0  # transfers and downloads begun or lost
    message: Message | None = None  # that is carried
    flow: Flow | None = None
    level_before: Fraction = Fraction(0)
    heat_before: tuple[float, float] = (0.0, 0.0)
    doing: Work | None = None
    carrying: Work | None = None
    queued: deque[Message] = field(default_factory=deque)
    in_flight: list[Work] = field(default_factory=list)
    last_arrival: float = 0.0
    receiving: Work | None = None
    is_owed: bool = False
    forward_factor: float = 1.0
    encode_factor: float = 1.0
    heat: float = 0.0
    heat_known_at: float = 0.0
    charge_j: float = 0.0
    looked_at: float = 0.0
    compute: list[tuple[float, float]] = field(default_factory=list)  # since the last look
    sent: list[tuple[float, int]] = field(default_factory=list)  # since the last look
    batch_compute: list[tuple[float, float]] = field(default_factory=list)

    def numbers(self, batch: int) -> Batch:
        """The times and sizes of a mini-batch."""
        order = self.group.order
        if order is None:
            return self.group.batches[0]
        return self.group.batches[int(order[self.first + batch % self.num_batches])]


@dataclass
class Worker:
    """A server worker: its mini-batch and what it does for it."""

    index: int
    job: Job | None = None
    doing: Work | None = None
    lives: int = 0  # how often the server went down


@dataclass
class Piece:
    """Work under way on a machine that device and worker share."""

    left: float
    since: float
    slowdown: float
    rank: int
    handle: Callable[[], None]
    times_set: int = 0


class Engine:
    """The rules of DESIGN.md, one method per thing that can happen."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0.0
        self.agenda: list[tuple[float, int, int, Callable[[], None]]] = []
        self.begun = 0
        self.rows: list[Row] = []
        groups = [group for group in world.groups for _ in range(group.count)]
        works = (self.works_of(group) for group in world.groups)
        self.devices = [
            Device(index, group, *work)
            for index, (group, work) in enumerate(
                zip(groups, chain.from_iterable(works), strict=True)
            )
        ]
        self.workers = [Worker(index) for index in range(world.num_workers)]
        self.queue: list[Job] = []  # in the order in which they joined
        self.last_device = NONE
        self.admitted = 0
        self.outside: list[int] = []  # devices, by number
        self.served = [0.0 for _ in self.devices]
        self.jobs: dict[tuple[int, int], Job] = {}
        self.steps_done = 0
        self.pipes: dict[int, Pipe] = {}
        self.torn: dict[int, Callable[[float], int]] = {}  # bytes of what a link carries, by then
        self.uplinks = [Cell(cell.uplink_bits_per_s) for cell in world.cells]
        self.downlinks = [Cell(cell.downlink_bits_per_s) for cell in world.cells]
        self.replayed = 0
        self.steps_due = sum(device.num_batches for device in self.devices)
        self.streams: dict[str, np.random.Generator] = {}
        self.computing: dict[str, Piece] = {}
        self.down: Work | None = None
        stated = None if world.on_device else world.restarts
        self.restarts = windows_of(stated, world.seed, "server/restarts")
        for device in self.devices:
            if device.group.battery is not None:
                device.charge_j = device.group.battery.charge_j

    @staticmethod
    def works_of(group: Group) -> list[tuple[int, int]]:
        """Where each device's mini-batches begin in the group's order, and how many it has."""
        if group.starts is None:
            return [(0, group.num_batches)] * group.count
        bounds = [int(start) for start in group.starts]
        return [(first, end - first) for first, end in pairwise(bounds)]

    def run(self) -> list[Row]:
        """Handle what ends, in order, up to the horizon."""
        horizon = math.inf if self.world.horizon_s is None else self.world.horizon_s
        self.begin()
        self.await_restart()
        while self.agenda and self.agenda[0][0] <= horizon:
            self.now, _, _, handle = heapq.heappop(self.agenda)
            handle()
        if self.agenda:
            self.cut(horizon)
        return self.rows

    def begin(self) -> None:
        """All set to work."""
        for device in self.devices:
            if device.num_batches and not device.numbers(0).parts:
                self.joins(Job(device.index, 0, device.numbers(0), self.now))
            self.device_is_free(device)

    # -- equal times: workers by number, then devices; within one, the order of beginning

    def at(self, instant: float, rank: int, handle: Callable[[], None]) -> None:
        """Put a handling on the agenda."""
        self.begun += 1
        heapq.heappush(self.agenda, (instant, rank, self.begun, handle))

    def at_device(self, instant: float, device: Device, handle: Callable[[], None]) -> None:
        """A handling at a device or one of its links."""
        self.at(instant, len(self.workers) + device.index, handle)

    def factor(self, distribution: Distribution, stream: str) -> float:
        """The next factor of a stream; 1 where nothing is random."""
        if distribution == "constant":
            return 1.0
        if stream not in self.streams:
            seed = [self.world.seed, zlib.crc32(stream.encode())]
            self.streams[stream] = np.random.Generator(np.random.PCG64(seed))
        if distribution == "exponential":
            return float(self.streams[stream].standard_exponential())
        deviations = float(self.streams[stream].standard_normal())
        if deviations < 0:
            return math.exp(deviations * (-math.log(distribution.p10) / Z90))
        return math.exp(deviations * (math.log(distribution.p90) / Z90))

    def write(self, work: Work, *, version_written: int = NONE) -> None:
        """A row for what ends now; none for a wait of no length."""
        if self.now > work.start or work.kind not in {"wait", "queue"}:
            self.rows.append(_row(work, self.now, work.num_bytes, version_written, cut=False))

    # -- restarts

    def await_restart(self) -> None:
        """The next time at which the server goes down, as long as anything is left to step."""
        for start, end in self.restarts:
            last = len(self.workers) + 2 * len(self.devices)
            self.at(start, last, partial(self.goes_down, end))
            return

    def goes_down(self, end: float) -> None:
        """What the workers do is lost."""
        if self.steps_done == self.steps_due + self.world.replayed:
            return
        for worker in self.workers:
            if worker.doing is not None:
                self.cut_at(worker.doing, self.now)
            worker.doing, worker.lives = None, worker.lives + 1
        self.down = Work("down", self.world.actors.server, self.now, NONE)
        self.at(end, len(self.workers) + 2 * len(self.devices), self.comes_back)

    def comes_back(self) -> None:
        """Every worker begins anew, or takes what has joined."""
        assert self.down is not None
        self.write(self.down)
        self.down = None
        interrupted = [worker.job for worker in self.workers]
        for worker, job in zip(self.workers, interrupted, strict=True):
            if job is not None:
                job.version_read, job.position = self.steps_done, 0
                self.sets_to_work(worker, job)
            elif worker.job is None and self.queue:
                self.take_up(worker)
        self.await_restart()

    # -- devices that vanish

    def watch(self, device: Device) -> None:
        """Something begins: it ends no later than the device's next abrupt absence begins."""
        if not self.may_vanish(device):
            return
        start, end = self.absence_of(device)
        if math.isfinite(start) and device.watched != start:
            device.watched = start
            rank = len(self.workers) + len(self.devices) + device.index
            self.at(start, rank, partial(self.vanishes, device, end))

    def vanishes(self, device: Device, back: float) -> None:
        """Work, then transfer, then delivery of a device are lost."""
        work = device.doing
        if work is not None and work.kind in {"forward", "encode"}:
            self.cut_at(work, self.now)
            for record in (device.compute, device.batch_compute):
                record.append((work.start, self.now))
            self.cools(device, work.start)
            device.lives, device.part = device.lives + 1, 0
            self.pauses(device, back, device.batch, lambda: self.is_back(device))
        if device.carrying is not None:
            assert device.message is not None
            sent = self.cut_at(device.carrying, self.now)
            device.sent.append((self.now - device.carrying.start, sent))
            self.stops(device, self.uplinks, self.world.actors.uplink(device.index))
            device.message.handed_over = self.now
            device.queued.appendleft(device.message)
            device.carrying = None
            self.at_device(back, device, partial(self.sends_again, device))
        if device.receiving is not None and device.receiving.kind == "download":
            self.cut_at(device.receiving, self.now)
            self.stops(device, self.downlinks, device.receiving.actor)
            device.receiving = None
            self.pauses(device, back, NONE, lambda: self.fetches(device))

    def cut_at(self, work: Work, at: float) -> int:
        """A row for what is under way, if it has taken time; the bytes that a link has carried."""
        if at == work.start:
            return 0
        carries = work.kind in {"transfer", "download", "reply"}
        size = self.torn[work.actor](at) if carries else NONE
        self.rows.append(_row(work, at, size, NONE, cut=True))
        return size

    def pauses(self, device: Device, until: float, batch: int, handle: Callable[[], None]) -> None:
        """The device does nothing for a while."""
        device.doing = Work("pause", device.index, self.now, device.index, batch)
        self.at_device(until, device, handle)

    def stops(self, device: Device, cells: list[Cell], actor: int) -> None:
        """A link forgets the message that it carries."""
        device.sendings += 1
        if device.group.cell is not None:
            assert device.flow is not None
            cells[device.group.cell].end(device.flow, self.now, is_through=False)
            self.watch_cell(cells[device.group.cell])
        elif actor in self.pipes:
            self.pipes[actor].forget(device.level_before)

    def cools(self, device: Device, start: float) -> None:
        """It is as warm as the work that it did has made it."""
        heat = device.group.heat
        if heat is not None:
            cold = (1 - device.heat_before[1]) * math.exp(
                -(self.now - start) / heat.time_constant_s
            )
            device.heat, device.heat_known_at = 1 - cold, self.now

    def sends_again(self, device: Device) -> None:
        """Its link is back."""
        self.transfer_begins(device, device.queued.popleft())

    def fetches(self, device: Device) -> None:
        """It is back, and what is to be delivered sets out."""
        assert device.doing is not None
        self.write(device.doing)
        device.doing = None
        self.download_begins(device)

    # -- device

    def device_is_free(self, device: Device) -> None:
        """Begin the next part's forward, or wait for the credit to; skip what the server has."""
        while device.batch < device.num_batches and not device.numbers(device.batch).parts:
            device.batch += 1
        if device.batch == device.num_batches:
            return
        needed = device.batch - device.group.run_ahead
        if device.part == 0 and needed >= device.taken_up and not self.world.on_device:
            device.doing = Work("wait", device.index, self.now, device.index, device.batch)
            return
        if device.part > 0 or not (self.is_away(device) or self.rests(device)):
            self.forward_begins(device)

    def is_away(self, device: Device) -> bool:
        """Whether the device is away, and so rests until it is back."""
        start, end = self.absence_of(device)
        if self.now < start:
            return False
        self.pauses(device, end, device.batch, lambda: self.is_back(device))
        return True

    def absence_of(self, device: Device) -> tuple[float, float]:
        """The absence that a device is in, or the next one."""
        if device.group.absences is None:
            return math.inf, math.inf
        if device.away is None:
            stream = f"device-{device.index}/absences"
            device.away = windows_of(device.group.absences, self.world.seed, stream)
        while device.next_absence is None or device.next_absence[1] <= self.now:
            device.next_absence = next(device.away, (math.inf, math.inf))
        return device.next_absence

    def is_back(self, device: Device) -> None:
        """There again, unless it leaves at once; a rest that is done need not be done again."""
        assert device.doing is not None
        self.write(device.doing)
        if not self.is_away(device) and (device.has_rested or not self.rests(device)):
            self.forward_begins(device)

    def rests(self, device: Device) -> bool:
        """Look at the battery; whether it asks for rest."""
        battery, power = device.group.battery, device.group.power
        if battery is None:
            return False
        assert power is not None
        computed = sum(end - start for start, end in device.compute)
        radio = sum(power.radio_w * s + power.radio_j_per_bit * 8 * size for s, size in device.sent)
        gained = self.charged(device, device.looked_at, self.now)
        drawn = (power.load_w - power.idle_w) * computed + radio
        device.charge_j = min(battery.capacity_j, device.charge_j + gained - drawn)
        device.looked_at, device.compute, device.sent = self.now, [], []
        if device.charge_j >= battery.low_j:
            return False
        if battery.duty is None:
            until = self.charged_again(device, battery.resume_j - device.charge_j)
        elif device.batch_compute:
            worked = sum(end - start for start, end in device.batch_compute)
            until = device.batch_compute[-1][1] + worked * (1 / battery.duty - 1)
        else:
            return False
        if until <= self.now:
            return False
        self.pauses(device, until, device.batch, lambda: self.rest_ends(device))
        return True

    def charger_of(self, device: Device) -> Iterator[tuple[float, float, float]]:
        """From and to when a device that only idles gains or loses how many watts."""
        battery, power = device.group.battery, device.group.power
        assert battery is not None
        assert power is not None
        now, stream = 0.0, f"device-{device.index}/unplugged"
        net = battery.charger_w - power.idle_w
        for start, end in windows_of(battery.unplugged, self.world.seed, stream):
            yield now, start, net
            yield start, end, -power.idle_w
            now = end
        yield now, math.inf, net

    def charged(self, device: Device, since: float, until: float) -> float:
        """What an idle device's charge gains between two instants."""
        gained = 0.0
        for start, end, watts in self.charger_of(device):
            if start >= until:
                break
            gained += watts * max(min(end, until) - max(start, since), 0.0)
        return gained

    def charged_again(self, device: Device, missing: float) -> float:
        """When an idle device has gained so much from now on."""
        for start, end, watts in self.charger_of(device):
            begin = max(start, self.now)
            if end <= begin:
                continue
            if watts > 0 and missing <= watts * (end - begin):
                return begin + missing / watts
            missing -= watts * (end - begin)
        raise AssertionError("unreachable: the last is without end")

    def rest_ends(self, device: Device) -> None:
        """Look again, or after a rest of stated length begin."""
        assert device.doing is not None
        self.write(device.doing)
        battery = device.group.battery
        assert battery is not None
        device.has_rested = battery.duty is not None
        if not self.is_away(device) and (device.has_rested or not self.rests(device)):
            self.forward_begins(device)

    def forward_begins(self, device: Device) -> None:
        """The next part's forward."""
        if device.part == 0:
            device.batch_compute, device.has_rested = [], False
            if device.drawn_for != device.batch:
                device.drawn_for, device.handed_over = device.batch, 0
                self.draw_factors(device)
        part = device.numbers(device.batch).parts[device.part]
        seconds = part.forward_s * device.forward_factor
        if seconds == 0:
            device.doing = None
            self.at_device(self.now, device, lambda: self.is_forwarded(device, part))
            return
        device.doing = Work("forward", device.index, self.now, device.index, device.batch, part.tap)
        self.compute(device, seconds, lambda: self.forward_ends(device, part))

    def draw_factors(self, device: Device) -> None:
        """The mini-batch's factors, one for all of its forwards and one for its encodings."""
        group, name = device.group, f"device-{device.index}"
        pace = self.of_its_own(group.pace_deviation, f"{name}/pace")
        forward = self.factor(group.forward_distribution, f"{name}/forward")
        encode = self.factor(group.encode_distribution, f"{name}/encode")
        device.forward_factor, device.encode_factor = forward / pace, encode / pace

    def of_its_own(self, deviation: float, stream: str) -> float:
        """A device's own factor, the same whenever it is asked for."""
        if deviation == 0:
            return 1.0
        seed = [self.world.seed, zlib.crc32(stream.encode())]
        normal = np.random.Generator(np.random.PCG64(seed)).standard_normal()
        return math.exp(deviation * float(normal))

    def compute(self, device: Device, length: float, handle: Callable[[], None]) -> None:
        """A device's piece of work, warm or cold, alone on its machine or not."""
        heat = device.group.heat
        if heat is not None:
            length = self.warmed(device, heat, length)
        rank, lives = len(self.workers) + device.index, device.lives

        def ends() -> None:
            if device.lives == lives:
                handle()

        self.on_machine("device", length, rank, ends)
        self.watch(device)

    def warmed(self, device: Device, heat: Heat, length: float) -> float:
        """How long a piece lasts, by bisection; the device is warmer after it."""
        tau, share = heat.time_constant_s, heat.sustained
        before = device.heat * math.exp(-(self.now - device.heat_known_at) / tau)
        device.heat_before = self.now, before

        def done(after: float) -> float:
            fading = tau * (1 - math.exp(-after / tau))
            return share * after + (1 - share) * (1 - before) * fading

        low, high = length, length / share
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if done(middle) < length else (low, middle)
        device.heat = 1 + (before - 1) * math.exp(-high / tau)
        device.heat_known_at = self.now + high
        return high

    def on_machine(self, side: str, length: float, rank: int, handle: Callable[[], None]) -> None:
        """Work that the other side of a shared machine slows down."""
        if self.world.contention is None:
            self.at(self.now + length, rank, handle)
            return
        self.computing[side] = Piece(length, self.now, 1.0, rank, handle)
        self.set_paces()

    def set_paces(self) -> None:
        """A side has begun or ended: work goes on at the pace that this gives it."""
        contention = self.world.contention
        if contention is None:
            return
        slowdowns = {"device": contention.device_slowdown, "server": contention.server_slowdown}
        for side, piece in self.computing.items():
            piece.left -= (self.now - piece.since) / piece.slowdown
            piece.since = self.now
            piece.slowdown = slowdowns[side] if len(self.computing) == 2 else 1.0
            piece.times_set += 1
            ends = partial(self.piece_ends, side, piece, piece.times_set)
            self.at(self.now + piece.left * piece.slowdown, piece.rank, ends)

    def piece_ends(self, side: str, piece: Piece, number: int) -> None:
        """The end of a piece, unless its pace has changed since this end was foreseen."""
        if piece.times_set != number or self.computing.get(side) is not piece:
            return
        del self.computing[side]
        self.set_paces()
        piece.handle()

    def forward_ends(self, device: Device, part: Part) -> None:
        """Encode, where that takes time; or train, on a device that does."""
        self.has_computed(device)
        self.is_forwarded(device, part)

    def is_forwarded(self, device: Device, part: Part) -> None:
        """What follows a forward, be it one of no time."""
        if self.world.on_device:
            self.trains(device, "backward", lambda: self.trains(device, "step", None))
            return
        if device.part < device.handed_over:
            device.part += 1
            self.forward_begins(device)
            return
        if part.encode_s == 0:
            self.part_is_ready(device, part)
            return
        device.doing = Work("encode", device.index, self.now, device.index, device.batch, part.tap)
        seconds = part.encode_s * device.encode_factor
        self.compute(device, seconds, lambda: self.encode_ends(device, part))

    def has_computed(self, device: Device, version_written: int = NONE) -> None:
        """Write what the device did."""
        assert device.doing is not None
        self.write(device.doing, version_written=version_written)
        for record in (device.compute, device.batch_compute):
            record.append((device.doing.start, self.now))

    def trains(self, device: Device, kind: str, then: Callable[[], None] | None) -> None:
        """The backward, or the step that ends a mini-batch."""
        numbers = device.numbers(device.batch)
        device.doing = Work(
            kind, device.index, self.now, device.index, device.batch, numbers.parts[0].tap
        )
        if kind == "step":
            device.doing.version_read = device.batch
        seconds = numbers.backward_s if kind == "backward" else numbers.step_s
        self.compute(device, seconds * device.forward_factor, lambda: self.trained(device, then))

    def trained(self, device: Device, then: Callable[[], None] | None) -> None:
        """On with the step, or with the next mini-batch."""
        written = NONE if then is not None else device.batch + 1
        self.has_computed(device, written)
        if then is not None:
            then()
            return
        device.doing, device.batch = None, device.batch + 1
        self.device_is_free(device)

    def encode_ends(self, device: Device, part: Part) -> None:
        """The message is there."""
        self.has_computed(device)
        self.part_is_ready(device, part)

    def part_is_ready(self, device: Device, part: Part) -> None:
        """Hand the message over and go on."""
        device.doing = None
        message = Message(device.index, device.batch, part, self.now)
        numbers = device.numbers(device.batch)
        device.part += 1
        device.handed_over = device.part
        is_last = device.part == len(numbers.parts)
        if is_last:
            device.part = 0
        if device.carrying is None and device.index not in self.outside:
            device.queued.append(message)
            self.asks_for_room(device)
        else:
            device.queued.append(message)
        if is_last and numbers.reply_bytes > 0:
            device.doing = Work("wait", device.index, self.now, device.index, device.batch)
            device.awaits_reply = True
            return
        device.batch += is_last
        self.device_is_free(device)

    def reply_begins(self, device: Device, batch: int) -> None:
        """What the device waits for sets out."""
        actor, group, numbers = (
            self.world.actors.downlink(device.index), device.group, device.numbers(batch),
        )  # fmt: skip
        size = numbers.reply_bytes
        device.receiving = Work("reply", actor, self.now, device.index, batch, num_bytes=size)
        own = (actor, group.downlink, group.downlink_bits_per_s, numbers.reply_s)
        self.carry(device, self.downlinks, own, size, lambda: self.download_ends(device))

    def reply_is_there(self, device: Device) -> None:
        """The device ends its wait and goes back."""
        assert device.doing is not None
        self.write(device.doing)
        device.awaits_reply = False
        device.doing = Work("backward", device.index, self.now, device.index, device.batch)
        seconds = device.numbers(device.batch).backward_s * device.forward_factor
        self.compute(device, seconds, lambda: self.went_back(device))

    def went_back(self, device: Device) -> None:
        """On with the next mini-batch."""
        self.has_computed(device)
        device.doing, device.batch = None, device.batch + 1
        self.device_is_free(device)

    def credit(self, device: Device) -> None:
        """The server takes up one of the device's mini-batches."""
        device.taken_up += 1
        waiting = device.doing
        if waiting is None or waiting.kind != "wait" or device.awaits_reply:
            return
        if device.batch - device.group.run_ahead < device.taken_up:
            self.write(waiting)
            self.device_is_free(device)

    # -- uplink

    def carry(
        self,
        device: Device,
        cells: list[Cell],
        own: Path,
        num_bytes: int,
        handle: Callable[[], None],
    ) -> None:
        """Begin to carry a message: in a cell, over a link that varies, or at a constant rate."""
        actor, channel, bits_per_s, seconds = own
        group = device.group
        if group.rate_deviation > 0:
            bits_per_s *= self.of_its_own(group.rate_deviation, f"link-{device.index}/rate")
            seconds = num_bytes * 8 / bits_per_s
        device.sendings += 1
        start = self.now
        if group.cell is not None:
            cell = cells[group.cell]
            flow = device.flow = Flow(device.index, group.weight, bits_per_s, handle)
            cell.join(flow, 8 * num_bytes, start)
            self.torn[actor] = lambda by: max(
                math.floor((8 * num_bytes - cell.left(flow, by)) / 8), 0
            )
            self.watch_cell(cell)
            self.watch(device)
            return
        if channel is None:
            end = start + seconds
            self.torn[actor] = lambda by: whole_bytes(
                num_bytes, lambda size: start + seconds * size / num_bytes, by
            )
        else:
            pipe = self.pipe(actor, channel, device)
            device.level_before, before = pipe.line.level, pipe.as_it_is()
            end = pipe.carry(start, 8 * num_bytes)
            self.torn[actor] = lambda by: whole_bytes(
                num_bytes, lambda size: before.as_it_is().carry(start, 8 * size), by
            )
        self.at_device(end, device, partial(self.if_still, device, device.sendings, handle))
        self.watch(device)

    def if_still(self, device: Device, sendings: int, handle: Callable[[], None]) -> None:
        """The end of a transfer, unless it was lost."""
        if device.sendings == sendings or not self.may_vanish(device):
            handle()

    @staticmethod
    def may_vanish(device: Device) -> bool:
        """Whether it leaves abruptly."""
        absences = device.group.absences
        return absences is not None and absences.kind == "abrupt"

    def watch_cell(self, cell: Cell) -> None:
        """Put the next end of a cell on the agenda; it holds until the cell changes."""
        coming, change = cell.next_end(), cell.changes
        if coming is None:
            return
        end, device, flow = coming

        def ends() -> None:
            if cell.changes == change:
                cell.end(flow, self.now)
                self.watch_cell(cell)
                flow.handle()

        self.at_device(end, self.devices[device], ends)

    def pipe(self, actor: int, channel: Channel, device: Device) -> Pipe:
        """One direction of a device's link, which remembers what it carried."""
        if actor not in self.pipes:
            self.pipes[actor] = Pipe(channel, self.world.seed, device.index)
        return self.pipes[actor]

    def asks_for_room(self, device: Device) -> None:
        """The next message of a link is carried at once, or when its mini-batch is let in."""
        message = device.queued[0]
        is_first = message.part is device.numbers(message.batch).parts[0]
        if is_first and self.world.room is not None:
            if self.admitted == self.world.room:
                self.outside.append(device.index)
                return
            self.admitted += 1
        self.transfer_begins(device, device.queued.popleft())

    def transfer_begins(self, device: Device, message: Message) -> None:
        """The link takes a message."""
        actor, part = self.world.actors.uplink(device.index), message.part
        place = (device.index, message.batch, part.tap)
        self.write(Work("queue", actor, message.handed_over, *place, version_read=part.version))
        device.carrying = Work("transfer", actor, self.now, *place, part.num_bytes, part.version)
        device.message = message
        group = device.group
        own = (actor, group.uplink, group.uplink_bits_per_s, part.transfer_s)
        self.carry(
            device, self.uplinks, own, part.num_bytes, lambda: self.transfer_ends(device, message)
        )

    def transfer_ends(self, device: Device, message: Message) -> None:
        """The link takes the next message; this one travels on."""
        assert device.carrying is not None
        self.write(device.carrying)
        device.sent.append((self.now - device.carrying.start, device.carrying.num_bytes))
        device.carrying = None
        if device.queued:
            self.asks_for_room(device)
        self.message_travels(device, message)

    def message_travels(self, device: Device, message: Message) -> None:
        """Latency, where there is any; messages do not overtake."""
        group = device.group
        if group.latency_s == 0:
            self.message_arrives(device, message)
            return
        actor, tap = self.world.actors.uplink(device.index), message.part.tap
        version = message.part.version
        travel = Work(
            "latency", actor, self.now, device.index, message.batch, tap, version_read=version
        )
        device.in_flight.append(travel)
        factor = self.factor(group.latency_distribution, f"uplink-{device.index}/latency")
        device.last_arrival = max(self.now + group.latency_s * factor, device.last_arrival)
        self.at_device(
            device.last_arrival, device, lambda: self.latency_ends(device, travel, message)
        )

    def latency_ends(self, device: Device, travel: Work, message: Message) -> None:
        """The message is at the server."""
        device.in_flight.remove(travel)
        self.write(travel)
        self.message_arrives(device, message)

    # -- server

    def message_arrives(self, device: Device, message: Message) -> None:
        """The first message of a mini-batch joins the queue; a later one may end a wait."""
        key = (device.index, message.batch)
        if key not in self.jobs:
            self.jobs[key] = Job(*key, device.numbers(message.batch), self.now)
        job = self.jobs[key]
        job.arrived += 1
        if job.arrived == (len(job.numbers.parts) if self.may_vanish(device) else 1):
            job.joined = self.now
            while device.joined < message.batch:
                kept = device.joined
                self.joins(Job(device.index, kept, device.numbers(kept), self.now))
            self.joins(job)
            return
        worker = job.worker
        if worker is not None and worker.doing is not None and self.waits_for(worker, job):
            self.write(worker.doing)
            self.part_is_there(worker, job)

    def waits_for(self, worker: Worker, job: Job) -> bool:  # noqa: ARG002 - it has but this one
        """Whether a worker waits for a part of its mini-batch."""
        return worker.doing is not None and worker.doing.kind == "wait"

    def joins(self, job: Job) -> None:
        """A mini-batch joins the queue; an idle worker takes it up."""
        self.devices[job.device].joined += 1
        self.queue.append(job)
        idle = next((worker for worker in self.workers if worker.job is None), None)
        if idle is not None and self.down is None:
            self.take_up(idle)

    def next_in_queue(self) -> Job:
        """What the discipline has a free worker take, of each device's first."""
        heads: dict[int, Job] = {}
        for job in self.queue:
            heads.setdefault(job.device, job)
        match self.world.discipline:
            case "first-come":
                return self.queue[0]
            case "round-robin":
                above = [device for device in heads if device > self.last_device]
                return heads[min(above or heads)]
            case "shortest-job":
                return min(heads.values(), key=lambda job: job.work_s)
            case "fair":
                return min(heads.values(), key=lambda job: (self.served[job.device], job.device))

    def take_up(self, worker: Worker) -> None:
        """An idle worker takes what comes next; one that was kept whole may join then."""
        job = self.next_in_queue()
        self.queue.remove(job)
        self.last_device = job.device
        self.served[job.device] += job.work_s
        worker.job, job.worker = job, worker
        job.version_read = self.steps_done
        job.factor = self.factor(self.world.step_distribution, f"worker-{worker.index}/step")
        self.write(
            Work(
                "queue", self.world.actors.server, job.joined, job.device, job.batch,
                first_tap(job),
            )
        )  # fmt: skip
        device = self.devices[job.device]
        self.credit(device)
        self.gives_room(job)
        self.sets_to_work(worker, job)
        self.one_kept_follows(job)

    def gives_room(self, job: Job) -> None:
        """There is room for another that is carried."""
        if job.numbers.parts and self.world.room is not None:
            self.admitted -= 1
            if self.outside:
                self.admitted += 1
                let_in = self.devices[self.outside.pop(0)]
                self.transfer_begins(let_in, let_in.queued.popleft())

    def one_kept_follows(self, job: Job) -> None:
        """The next of a device joins if the server has kept all of it."""
        device = self.devices[job.device]
        after = job.batch + 1
        is_next = after == device.joined and after < device.num_batches
        if is_next and not device.numbers(after).parts:
            self.joins(Job(device.index, after, device.numbers(after), self.now))

    def sets_to_work(self, worker: Worker, job: Job) -> None:
        """First what was kept, then the parts."""
        if job.numbers.cached_s > 0:
            self.decode_kept(worker, job)
        else:
            self.next_part(worker, job)

    def unpacked(self, worker: Worker, job: Job) -> None:
        """What was kept is there; on with what arrives."""
        assert worker.doing is not None
        self.write(worker.doing)
        self.next_part(worker, job)

    def next_part(self, worker: Worker, job: Job) -> None:
        """Decode the next part, wait for it, or step after the last."""
        if job.position == len(job.numbers.parts):
            self.work(
                worker, "step", job.numbers.step_s * job.factor, lambda: self.step_ends(worker)
            )
        elif job.position < job.arrived:
            self.part_is_there(worker, job)
        else:
            worker.doing = self.working(worker, "wait")

    def part_is_there(self, worker: Worker, job: Job) -> None:
        """Decode, where that takes time."""
        decode_s = job.numbers.parts[job.position].decode_s
        if decode_s == 0:
            self.side_forward(worker, job)
        else:
            self.work(
                worker, "decode", decode_s * job.factor, lambda: self.decode_ends(worker, job)
            )

    def decode_ends(self, worker: Worker, job: Job) -> None:
        """The part's activations are there."""
        assert worker.doing is not None
        self.write(worker.doing)
        self.side_forward(worker, job)

    def side_forward(self, worker: Worker, job: Job) -> None:
        """The side network's share of this part, where it takes time."""
        side_s = job.numbers.parts[job.position].side_forward_s
        if side_s == 0:
            job.position += 1
            self.next_part(worker, job)
        else:
            length = side_s * job.factor
            self.work(worker, "side_forward", length, lambda: self.side_forward_ends(worker, job))

    def side_forward_ends(self, worker: Worker, job: Job) -> None:
        """On to the next part."""
        assert worker.doing is not None
        self.write(worker.doing)
        job.position += 1
        self.next_part(worker, job)

    def step_ends(self, worker: Worker) -> None:
        """A new version; the worker takes up the next mini-batch; the last step delivers."""
        assert worker.doing is not None
        self.steps_done += 1
        self.write(worker.doing, version_written=self.steps_done)
        job = worker.job
        assert job is not None
        if job.numbers.reply_bytes > 0:
            self.reply_begins(self.devices[job.device], job.batch)
        worker.job = worker.doing = None
        if self.queue:
            self.take_up(worker)
        if self.steps_done >= self.steps_due:
            self.learn_on()
        if self.steps_done == self.steps_due + self.world.replayed and self.world.deliver:
            for device in self.devices:
                self.delivers(device)

    def learn_on(self) -> None:
        """Workers without a mini-batch take what was kept, the lowest number first."""
        replay = self.world.replay
        for worker in self.workers:
            if worker.job is None and replay is not None and self.replayed < len(replay.order):
                numbers = replay.batches[int(replay.order[self.replayed])]
                job = Job(NONE, self.replayed, numbers, self.now, version_read=self.steps_done)
                job.factor = self.factor(
                    self.world.step_distribution, f"worker-{worker.index}/step"
                )
                worker.job = job
                self.replayed += 1
                self.sets_to_work(worker, job)

    def decode_kept(self, worker: Worker, job: Job) -> None:
        """Unpack what of a mini-batch was kept."""
        actor = self.world.actors.worker(worker.index)
        worker.doing = Work("decode", actor, self.now, job.device, job.batch)
        length = job.numbers.cached_s * job.factor
        self.at_worker(length, worker, lambda: self.unpacked(worker, job))

    def work(self, worker: Worker, kind: str, length: float, handle: Callable[[], None]) -> None:
        """A worker's piece of work."""
        worker.doing = self.working(worker, kind)
        self.at_worker(length, worker, handle)

    def at_worker(self, length: float, worker: Worker, handle: Callable[[], None]) -> None:
        """The end of a worker's piece of work, unless the server goes down before."""
        lives = worker.lives

        def ends() -> None:
            if worker.lives == lives:
                handle()

        self.on_machine("server", length, worker.index, ends)

    def working(self, worker: Worker, kind: str) -> Work:
        """What a worker does for its mini-batch from now on."""
        job, actor = worker.job, self.world.actors.worker(worker.index)
        assert job is not None
        if kind == "step":
            return Work(kind, actor, self.now, job.device, job.batch, version_read=job.version_read)
        tap = job.numbers.parts[job.position].tap
        return Work(kind, actor, self.now, job.device, job.batch, tap)

    # -- downlink

    def delivers(self, device: Device) -> None:
        """To a device that is there; one that has vanished fetches it."""
        start, end = self.absence_of(device) if self.may_vanish(device) else (math.inf, math.inf)
        if start <= self.now:
            self.pauses(device, end, NONE, lambda: self.fetches(device))
        else:
            self.download_begins(device)

    def download_begins(self, device: Device) -> None:
        """What trained goes to one device, after the reply that is on its way."""
        device.is_owed = device.receiving is not None
        if device.is_owed:
            return
        actor, group = self.world.actors.downlink(device.index), device.group
        device.receiving = Work(
            "download", actor, self.now, device.index, num_bytes=group.download_bytes
        )
        own = (actor, group.downlink, group.downlink_bits_per_s, group.download_s)
        self.carry(
            device, self.downlinks, own, group.download_bytes, lambda: self.download_ends(device)
        )

    def download_ends(self, device: Device) -> None:
        """It travels, where that takes time."""
        assert device.receiving is not None
        self.write(device.receiving)
        group, actor, batch = device.group, device.receiving.actor, device.receiving.batch
        device.receiving = None
        if group.latency_s == 0:
            self.is_there(device, batch)
        else:
            device.receiving = Work("latency", actor, self.now, device.index, batch)
            factor = self.factor(group.latency_distribution, f"uplink-{device.index}/latency")
            self.at_device(
                self.now + group.latency_s * factor, device, lambda: self.delivered(device)
            )

    def delivered(self, device: Device) -> None:
        """It is there."""
        assert device.receiving is not None
        self.write(device.receiving)
        batch, device.receiving = device.receiving.batch, None
        self.is_there(device, batch)

    def is_there(self, device: Device, batch: int) -> None:
        """The device has what trained, or what it waits for; then what it is owed sets out."""
        if batch != NONE:
            self.reply_is_there(device)
        if device.is_owed:
            self.download_begins(device)

    # -- horizon

    def cut(self, horizon: float) -> None:
        """Write what is under way, actor by actor."""
        under_way = [device.doing for device in self.devices]
        for device in self.devices:
            actor = self.world.actors.uplink(device.index)
            under_way.append(device.carrying)
            under_way.extend(
                Work(
                    "queue",
                    actor,
                    m.handed_over,
                    m.device,
                    m.batch,
                    m.part.tap,
                    version_read=m.part.version,
                )
                for m in device.queued
            )
            under_way.extend(device.in_flight)
        under_way.append(self.down)
        under_way.extend(self.queued_at_server())
        under_way.extend(worker.doing for worker in self.workers)
        under_way.extend(device.receiving for device in self.devices)
        for work in under_way:
            if work is not None:
                self.cut_at(work, horizon)

    def queued_at_server(self) -> Iterator[Work]:
        """What waits at the server."""
        actor = self.world.actors.server
        return (
            Work("queue", actor, job.joined, job.device, job.batch, first_tap(job))
            for job in self.queue
        )


def first_tap(job: Job) -> int:
    """The tap of its first part."""
    return job.numbers.parts[0].tap if job.numbers.parts else NONE


def _row(work: Work, end: float, num_bytes: int, version_written: int, *, cut: bool) -> Row:
    return (
        KIND_CODE[work.kind],
        work.actor,
        work.start,
        end,
        work.device,
        work.batch,
        work.tap,
        num_bytes,
        work.version_read,
        version_written,
        cut,
    )


# -- the numbers of a scenario in which every time is stated


def stated_world(scenario: Scenario) -> World:
    """The world of a timing-only scenario of stated times and payload, without delivery."""
    server = scenario.server.profile
    assert isinstance(server, FixedServer)
    return World(
        seed=scenario.seed,
        groups=tuple(_stated_group(scenario, group) for group in scenario.devices),
        num_workers=scenario.server.workers,
        deliver=False,
        horizon_s=scenario.horizon,
        cells=tuple(
            CellRates(cell.uplink.value, cell.downlink.value) for cell in scenario.cells.values()
        ),
        step_distribution=server.step_s.value.distribution,
        discipline=scenario.server.discipline,
        room=scenario.server.room,
        restarts=scenario.server.restarts,
    )


def _stated_group(scenario: Scenario, group: DeviceGroup) -> Group:
    device, link = group.profile, group.link
    assert isinstance(device, FixedDevice)
    assert scenario.num_batches is not None
    uplink, downlink = stated_channels(link)
    cell, cells = None, [*scenario.cells]
    up_bits_per_s, down_bits_per_s = stated_rates(scenario, group)
    if group.cell is not None:
        cell = cells.index(group.cell)
    return Group(
        count=group.count,
        run_ahead=group.run_ahead,
        num_batches=scenario.num_batches,
        batches=(_stated_batch(scenario, group),),
        order=None,
        mtu_bytes=link.mtu_bytes.value,
        overhead_bytes=link.overhead_bytes.value,
        uplink_bits_per_s=up_bits_per_s,
        downlink_bits_per_s=down_bits_per_s,
        latency_s=link.latency.value.mean,
        download_bytes=0,
        download_s=0.0,
        forward_distribution=device.forward_s.value.distribution,
        encode_distribution=device.encode_s.value.distribution,
        latency_distribution=link.latency.value.distribution,
        uplink=uplink,
        downlink=downlink,
        cell=cell,
        weight=group.weight,
        absences=group.absences,
    )


def stated_rates(scenario: Scenario, group: DeviceGroup) -> tuple[float, float]:
    """Up and down in bit/s, means of traces: the link's own, no more than the cell's."""
    link = group.link
    down = link.uplink if link.downlink is None else link.downlink
    rates = [mean_rate(stated_rate(link, way.value)) for way in (link.uplink, down)]
    if group.cell is not None:
        cell = scenario.cells[group.cell]
        rates = [min(rates[0], cell.uplink.value), min(rates[1], cell.downlink.value)]
    return rates[0], rates[1]


def _stated_batch(scenario: Scenario, group: DeviceGroup) -> Batch:
    device, server = group.profile, scenario.server.profile
    assert isinstance(device, FixedDevice)
    assert isinstance(server, FixedServer)
    by_layer = scenario.granularity == "layer"
    taps = scenario.side_network.taps if by_layer else (NONE,)
    assert taps != "all"
    share = server.forward_share.value if by_layer else 0.0
    step_s, num_parts = server.step_s.value.mean, len(taps)
    return Batch(
        parts=tuple(
            Part(
                tap=tap,
                forward_s=device.forward_s.value.mean / num_parts,
                encode_s=device.encode_s.value.mean / num_parts,
                num_bytes=size,
                transfer_s=size * 8 / stated_rates(scenario, group)[0],
                decode_s=0.0,
                side_forward_s=step_s * share / num_parts,
            )
            for tap, size in zip(taps, _stated_sizes(scenario, group, num_parts), strict=True)
        ),
        step_s=step_s * (1 - share),
    )


def _stated_sizes(scenario: Scenario, group: DeviceGroup, num_parts: int) -> list[int]:
    """Bytes on the link per message: dealt out byte by byte, then cut into packets."""
    total = scenario.wire.payload_bytes
    assert total is not None
    messages = [len(range(part, total, num_parts)) for part in range(num_parts)]
    mtu, overhead = group.link.mtu_bytes.value, group.link.overhead_bytes.value
    return [size + len(range(0, size, mtu)) * overhead for size in messages]
