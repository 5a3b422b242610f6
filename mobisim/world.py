"""A world: every actor of a scenario with its numbers, ready to run. Frozen once built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from mobisim.channel import Channel, directions
from mobisim.cost.compute import BatchCost, replay_cost
from mobisim.cost.energy import Battery, Power, battery_of, power_of
from mobisim.cost.joint import JointSteps
from mobisim.cost.method_cost import averaging, method_cost
from mobisim.cost.system import System
from mobisim.cost.traffic import delivered_bytes, round_traffic
from mobisim.cost.work import BatchShape
from mobisim.errors import InputError
from mobisim.scenario.methods import MethodInfo
from mobisim.scenario.profiles import (
    Absences,
    DeviceProfile,
    FixedDevice,
    FixedServer,
    Measured,
    Outages,
    ServerProfile,
    spread_of,
)
from mobisim.scenario.quantities import Duration, Sourced
from mobisim.scenario.schema import DeviceGroup, Discipline, Scenario
from mobisim.span import NONE, Actors
from mobisim.streams import Distribution, log_normal


@dataclass(frozen=True)
class Part:
    """One message of a mini-batch: what leads to it, what carries it, what it takes in.

    A message that brings what a device learned in a round has the version that it began from.
    """

    tap: int
    forward_s: float
    encode_s: float
    num_bytes: int
    transfer_s: float
    decode_s: float
    side_forward_s: float
    version: int = NONE


@dataclass(frozen=True)
class Batch:
    """A mini-batch's times on one group's device and link and on the server.

    It has no parts where the server has kept all of it.

    Attributes:
        backward_s: of the device, where it trains by itself or gets a reply.
        cached_s: of unpacking what the server has kept, before the parts.
        reply_bytes: what comes down after the step, packets included; 0 where nothing does.
        reply_s: how long that takes at a constant rate.
    """

    parts: tuple[Part, ...]
    step_s: float
    backward_s: float = 0.0
    cached_s: float = 0.0
    reply_bytes: int = 0
    reply_s: float = 0.0

    @cached_property
    def work_s(self) -> float:
        """The stated seconds of a worker, random factors apart."""
        parts = [seconds for p in self.parts for seconds in (p.decode_s, p.side_forward_s)]
        return math.fsum([self.cached_s, *parts, self.step_s])


@dataclass(frozen=True)
class Heat:
    """A device's pace falls to `sustained` while it computes, with this time constant."""

    sustained: float
    time_constant_s: float


@dataclass(frozen=True)
class Contention:
    """How many times as long device and worker take while both compute on one machine."""

    device_slowdown: float
    server_slowdown: float


@dataclass(frozen=True)
class Exchange:
    """What crosses each time that a device takes part in a round, packets included.

    `merge_s` is what a worker takes to add up what came.
    """

    down_bytes: int
    down_s: float
    up_bytes: int
    up_s: float
    merge_s: float


@dataclass(frozen=True)
class Group:
    """What the devices of a group share.

    Mini-batch k of each device is `batches[order[k]]`, or `batches[0]` for all k where there is
    no order; with rounds the order begins anew when it is through. Where devices differ, `order`
    has one after the other, those of the i-th of the group from `starts[i]` to `starts[i + 1]`;
    `num_batches` is then the most that any has.
    """

    count: int
    run_ahead: int
    num_batches: int
    batches: tuple[Batch, ...]
    order: NDArray[np.int32] | None
    mtu_bytes: int
    overhead_bytes: int
    uplink_bits_per_s: float
    downlink_bits_per_s: float
    latency_s: float
    download_bytes: int
    download_s: float
    forward_distribution: Distribution = "constant"
    encode_distribution: Distribution = "constant"
    latency_distribution: Distribution = "constant"
    power: Power | None = None
    heat: Heat | None = None
    battery: Battery | None = None
    uplink: Channel | None = None  # None: of constant rate, so that transfer_s holds
    downlink: Channel | None = None
    cell: int | None = None  # where the link's rates are the most that it gets of a cell's
    weight: int = 1
    absences: Absences | None = None
    pace_deviation: float = 0.0  # of the logarithm of each device's factor
    rate_deviation: float = 0.0
    starts: NDArray[np.int64] | None = None
    exchange: Exchange | None = None

    @property
    def vanishes(self) -> bool:
        """Whether its devices leave abruptly."""
        return self.absences is not None and self.absences.kind == "abrupt"

    @property
    def batches_of(self) -> NDArray[np.int64]:
        """How many mini-batches each device has."""
        if self.starts is None:
            return np.full(self.count, self.num_batches, np.int64)
        return np.diff(self.starts)

    @property
    def firsts(self) -> NDArray[np.int64]:
        """Where in the order each device's mini-batches begin."""
        return np.zeros(self.count, np.int64) if self.starts is None else self.starts[:-1]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many of all devices' mini-batches are each of the distinct ones."""
        order = np.zeros(self.num_batches, np.int32) if self.order is None else self.order
        each = self.count if self.starts is None else 1
        return np.bincount(order, minlength=len(self.batches)) * each

    @property
    def largest_message(self) -> int:
        """Bytes of the largest message, up or down."""
        up = max((p.num_bytes for batch in self.batches for p in batch.parts), default=0)
        exchanged = self.exchange.up_bytes if self.exchange is not None else 0
        return max(up, exchanged, *(batch.reply_bytes for batch in self.batches))

    @property
    def largest_payload(self) -> int:
        """Bytes of the largest mini-batch, all its messages together."""
        if self.exchange is not None:
            return self.exchange.up_bytes
        return max(sum(part.num_bytes for part in batch.parts) for batch in self.batches)


@dataclass(frozen=True)
class Replay:
    """Mini-batches that the server draws from what it has kept once the devices' are stepped.

    The k-th is `batches[order[k]]`, and has no parts.
    """

    batches: tuple[Batch, ...]
    order: NDArray[np.int32]


@dataclass(frozen=True)
class Calls:
    """Who is called where rounds are buffered: the first of a line, one for each that has answered.

    Shapes: `line`, the devices with data in the order in which they stand at first, is [devices].
    At first `at_work` of them are called.
    """

    line: NDArray[np.int32]
    at_work: int


@dataclass(frozen=True)
class Rounds:
    """Devices train by themselves, round by round, and a worker averages what they learned.

    Shapes: `selected` are the devices of each round in ascending order, [rounds, devices of one],
    none where they are called one by one; `local`, the mini-batches of each device whenever it
    takes part, is [devices].

    Attributes:
        awaited: how many updates end a round.
        deadline_s: after which it ends with those that came, at least one; None for never.
        average_s: what the worker takes once all are added up.
        calls: who is called where rounds are buffered; None where they are synchronous.
    """

    selected: NDArray[np.int32]
    local: NDArray[np.int64]
    awaited: int
    deadline_s: float | None
    average_s: float
    calls: Calls | None = None

    @property
    def count(self) -> int:
        """How many rounds there are."""
        return len(self.selected)

    @property
    def participations(self) -> int:
        """The most times that devices take part in rounds, all together."""
        if self.calls is None:
            return self.selected.size
        return self.count * self.awaited + self.calls.at_work

    @property
    def total_batches(self) -> int:
        """Mini-batches of all devices in all rounds, if none gives up.

        Of those that are called one by one as many as are averaged, were all called equally often.
        """
        if self.calls is None:
            return int(self.local[self.selected].sum())
        return round(self.count * self.awaited * float(self.local[self.calls.line].mean()))


@dataclass(frozen=True)
class Batching:
    """A server waits for several mini-batches, and takes them as one step.

    Attributes:
        window_s: for how long one waits at most, as far as workers are idle.
        most: how many are taken at once.
        step_s: the seconds of the step on several mini-batches, by the numbers of their sorts.
    """

    window_s: float
    most: int
    step_s: Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class CellRates:
    """What all links of a cell share."""

    uplink_bits_per_s: float
    downlink_bits_per_s: float


@dataclass(frozen=True)
class World:
    """All that the engine needs.

    `on_device`: devices train by themselves, and their mini-batches, of one part each, are sent
    nowhere.
    """

    seed: int
    groups: tuple[Group, ...]
    num_workers: int
    deliver: bool
    horizon_s: float | None
    step_distribution: Distribution = "constant"
    contention: Contention | None = None
    on_device: bool = False
    cells: tuple[CellRates, ...] = ()
    discipline: Discipline = "first-come"
    replay: Replay | None = None
    restarts: Outages | None = None
    room: int | None = None
    rounds: Rounds | None = None
    batching: Batching | None = None

    @cached_property
    def last_rank(self) -> int:
        """Of what comes last of all that happens at an instant."""
        return self.first_loss_rank + self.actors.num_devices

    @cached_property
    def first_loss_rank(self) -> int:
        """Of the first device's abrupt leaving, after all that ends."""
        return self.num_workers + self.actors.num_devices

    @cached_property
    def actors(self) -> Actors:
        """The actors."""
        return Actors(sum(group.count for group in self.groups), self.num_workers)

    @property
    def all_batches(self) -> Iterator[Batch]:
        """The distinct mini-batches of all groups."""
        return (batch for group in self.groups for batch in group.batches)

    def batch(self, device: int, number: int) -> Batch:
        """The numbers of a device's mini-batch."""
        group: Group = self.groups[int(self.group_of[device])]
        order = group.order
        return group.batches[0 if order is None else int(order[self.firsts[device] + number])]

    def sort(self, device: int, number: int) -> int:
        """Which of all distinct mini-batches a device's is: see `sorts`."""
        index = int(self.group_of[device])
        order = self.groups[index].order
        within = 0 if order is None else int(order[self.firsts[device] + number])
        return self._first_sorts[index] + within

    @cached_property
    def _first_sorts(self) -> list[int]:
        return [0, *accumulate(len(group.batches) for group in self.groups)]

    @cached_property
    def caches(self) -> bool:
        """Whether the server has kept all of some mini-batch."""
        return not all(batch.parts for batch in self.all_batches)

    @cached_property
    def replies(self) -> bool:
        """Whether devices wait for replies."""
        return any(batch.reply_bytes for batch in self.all_batches)

    @property
    def total_batches(self) -> int:
        """Mini-batches of all devices."""
        return int(self.batches_of.sum()) if self.rounds is None else self.rounds.total_batches

    @cached_property
    def replayed(self) -> int:
        """Mini-batches that the server draws from what it has kept."""
        return 0 if self.replay is None else len(self.replay.order)

    @cached_property
    def total_steps(self) -> int:
        """Steps of a run that ends; where a server batches, if it took each mini-batch alone."""
        return self.total_learned if self.rounds is None else self.rounds.count

    @cached_property
    def total_learned(self) -> int:
        """Mini-batches of all devices, and those that are replayed."""
        return self.total_batches + self.replayed

    @cached_property
    def num_sorts(self) -> int:
        """Distinct mini-batches of all groups, and of the replay."""
        of_groups = sum(len(group.batches) for group in self.groups)
        return of_groups + (0 if self.replay is None else len(self.replay.batches))

    @cached_property
    def batches_of(self) -> NDArray[np.int64]:
        """How many mini-batches each device has."""
        return np.concatenate([group.batches_of for group in self.groups])

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """Where each device's mini-batches begin in the order of its group."""
        return np.concatenate([group.firsts for group in self.groups])

    @cached_property
    def paces(self) -> NDArray[np.float64] | None:
        """How many times its group's pace each device works at; None where all do at it."""
        return self._sampled("device-{}/pace", [group.pace_deviation for group in self.groups])

    @cached_property
    def rates(self) -> NDArray[np.float64] | None:
        """How many times its group's rate each device's link has; None where all have it."""
        return self._sampled("link-{}/rate", [group.rate_deviation for group in self.groups])

    def _sampled(self, stream: str, of_groups: list[float]) -> NDArray[np.float64] | None:
        if not any(of_groups):
            return None
        deviations = enumerate(np.array(of_groups)[self.group_of].tolist())
        draws = (log_normal(self.seed, stream.format(i), deviation) for i, deviation in deviations)
        return np.fromiter(draws, np.float64)

    @cached_property
    def group_of(self) -> NDArray[np.int32]:
        """The group of each device."""
        counts = [group.count for group in self.groups]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def sorts(self, device: NDArray[np.int32], batch: NDArray[np.int64]) -> NDArray[np.intp]:
        """Which of all distinct mini-batches these are: group by group, then those replayed."""
        found = np.zeros(len(device), np.intp)
        owner, before = np.where(device == NONE, NONE, self.group_of[device]), 0
        for index, group in enumerate(self.groups):
            mine = owner == index
            found[mine] = before
            if group.order is not None:
                within = batch[mine] % self.batches_of[device[mine]]
                found[mine] += group.order[self.firsts[device[mine]] + within]
            before += len(group.batches)
        if self.replay is not None:
            mine = owner == NONE
            found[mine] = before + self.replay.order[batch[mine]]
        return found


@dataclass(frozen=True)
class ReplayWork:
    """What a server draws from what it has kept: distinct mixtures, and their order.

    A mixture has parts, each of one sort of device: the number of the first group that is of that
    sort, and the shape of its samples.
    """

    mixtures: tuple[tuple[tuple[int, BatchShape], ...], ...]
    order: NDArray[np.int32]


@dataclass(frozen=True)
class RoundsWork:
    """Who takes part in each round, how many updates end one, and what each device works through.

    Shapes: `selected` [rounds, devices of one], `local` [devices], as Rounds has them; `calls` too.
    """

    selected: NDArray[np.int32]
    local: NDArray[np.int64]
    awaited: int
    calls: Calls | None = None


@dataclass(frozen=True)
class Workload:
    """The mini-batches of each device: the distinct shapes, and the order in which they come.

    `shapes` is (None,) where every time and the payload are stated. Where devices have samples of
    their own, `order` has one device after the other, the i-th from `starts[i]` to `starts[i + 1]`,
    and `num_batches` is the most that any has. `kept_bytes` is the most that the server ever keeps
    of samples for later.
    """

    num_batches: int
    shapes: tuple[BatchShape | None, ...]
    order: NDArray[np.int32] | None = None
    kept_bytes: int = 0
    starts: NDArray[np.int64] | None = None
    replay: ReplayWork | None = None
    rounds: RoundsWork | None = None

    def at(self, device: NDArray[np.int32], batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where mini-batches of devices stand in the order."""
        return batch if self.starts is None else self.starts[device] + batch

    def of(self, devices: range) -> tuple[NDArray[np.int32] | None, NDArray[np.int64] | None]:
        """Order and starts of some devices alone."""
        if self.starts is None or self.order is None:
            return self.order, None
        starts = self.starts[devices.start : devices.stop + 1]
        return self.order[starts[0] : starts[-1]], starts - starts[0]

    @property
    def largest(self) -> BatchShape | None:
        """The shape with most tokens."""
        known = [shape for shape in self.shapes if shape is not None]
        return max(known, key=lambda shape: shape.num_tokens) if known else None


Costs = tuple[tuple[BatchCost, ...], ...]


def costs_of(system: System, workload: Workload) -> Costs:
    """What each shape costs on the devices of each group, whatever their links."""
    return tuple(
        tuple(method_cost(system.on(group), group, shape) for shape in workload.shapes)
        for group in system.scenario.devices
    )


def build(system: System, workload: Workload, costs: Costs | None = None) -> World:
    """The world of a scenario and its workload; its costs are `costs` where they are known."""
    scenario = system.scenario
    server = scenario.server.profile
    found = costs or costs_of(system, workload)
    world = World(
        seed=scenario.seed,
        groups=tuple(
            _group(system, group, workload, devices, own)
            for group, devices, own in zip(scenario.devices, scenario.ranges, found, strict=True)
        ),
        num_workers=scenario.server.workers,
        deliver=scenario.deliver != "none" and "trained" in system.options.method.down,
        horizon_s=scenario.horizon,
        step_distribution=_distribution(scenario, server, "step"),
        contention=_contention(scenario) if scenario.server.colocated else None,
        on_device=_is_on_device(system.options.method),
        cells=tuple(
            CellRates(cell.uplink.value, cell.downlink.value) for cell in scenario.cells.values()
        ),
        discipline=scenario.server.discipline,
        replay=_replay(system, workload.replay) if workload.replay is not None else None,
        restarts=scenario.server.restarts,
        room=scenario.server.room,
        rounds=_rounds(system, workload),
        batching=_batching(system, workload, found),
    )
    _check_losses(world)
    return world


def _check_losses(world: World) -> None:
    """Refuse abrupt absences of devices that do more than to send.

    Raises:
        InputError: with the place of the absences.
    """
    more = world.on_device or world.replies or world.contention is not None
    for index, group in enumerate(world.groups):
        if more and group.vanishes:
            raise InputError(
                "known only of devices that send and wait for no reply, on machines of their own",
                where=f"devices[{index}].absences.kind",
                expected="graceful, or a method with a side network",
                got="abrupt",
            )


def _replay(system: System, work: ReplayWork) -> Replay:
    views = system.views
    costs = [
        replay_cost([(views[group], shape) for group, shape in mixture])
        for mixture in work.mixtures
    ]
    batches = tuple(Batch((), cost.step_s, cached_s=cost.cached_s) for cost in costs)
    return Replay(batches, work.order)


def _rounds(system: System, workload: Workload) -> Rounds | None:
    work = workload.rounds
    if work is None:
        return None
    shape, deadline = workload.largest, system.scenario.federation.rounds.deadline
    average_s = averaging(system, shape).step_s
    return Rounds(work.selected, work.local, work.awaited, deadline, average_s, work.calls)


def _batching(system: System, workload: Workload, costs: Costs) -> Batching | None:
    """How a server batches; None where it does not, or has nothing to step on.

    Raises:
        InputError: what a server trains for other methods is not covered.
    """
    stated, method = system.scenario.server.batching, system.options.method
    if stated is None or (method.device == "training" and method.rounds is None):
        return None
    if not method.has_side_network or method.replies:
        raise InputError(
            "known of methods that train a side network at the server",
            where="server.batching",
            expected="mobillm, pae-mobillm or fed-mobillm",
            got=f"method: {system.scenario.method}",
            hint="leave batching out",
        )
    parts = [(view, shape) for view in system.views for shape in workload.shapes]
    steps = JointSteps(list(chain.from_iterable(costs)), parts, stated.shared or 0.0)
    longest = max(range(len(parts)), key=lambda sort: steps.costs[sort].step_s)
    steps.seconds((longest,) * stated.most)  # lest a run end where a shape is not covered
    return Batching(stated.window, stated.most, steps.seconds)


def _exchange(
    system: System, group: DeviceGroup, shape: BatchShape | None, up: float, down: float
) -> Exchange | None:
    """What crosses for a round over links of these rates; None without rounds."""
    if system.options.method.rounds is None:
        return None
    found = round_traffic(system, shape)
    down_bytes, up_bytes = map(group.link.wire_bytes, (found.down, found.up))
    return Exchange(
        down_bytes,
        down_bytes * 8 / down,
        up_bytes,
        up_bytes * 8 / up,
        averaging(system, shape).merge_s,
    )


def _is_on_device(method: MethodInfo) -> bool:
    return method.device == "training" or (method.rounds is not None and not method.replies)


def _contention(scenario: Scenario) -> Contention:
    device, server = scenario.devices[0].profile, scenario.server.profile
    assert isinstance(device, Measured)
    assert isinstance(server, Measured)
    assert device.contention is not None
    assert server.contention is not None
    return Contention(device.contention.slowdown.value, server.contention.slowdown.value)


def _distribution(
    scenario: Scenario, profile: DeviceProfile | ServerProfile, kind: str
) -> Distribution:
    """That of a kind of work: as stated, or as measured where the scenario asks for it."""
    if isinstance(profile, FixedDevice | FixedServer):
        stated: Sourced[Duration] = getattr(profile, f"{kind}_s")
        return stated.value.distribution
    spread = spread_of(profile, kind) if scenario.jitter == "measured" else None
    return spread or "constant"


def _group(
    system: System,
    group: DeviceGroup,
    workload: Workload,
    devices: range,
    costs: tuple[BatchCost, ...],
) -> Group:
    profile, link, system = group.profile, group.link, system.on(group)
    download_wire = link.wire_bytes(delivered_bytes(system))
    up, down = directions(group, system.scenario.cells)
    exchange = _exchange(system, group, workload.largest, up.bits_per_s, down.bits_per_s)
    order, starts = workload.of(devices)
    return Group(
        count=group.count,
        run_ahead=group.run_ahead,
        num_batches=workload.num_batches,
        batches=tuple(
            _batch(system, group, cost, up.bits_per_s, down.bits_per_s) for cost in costs
        ),
        order=order,
        starts=starts,
        mtu_bytes=link.mtu_bytes.value,
        overhead_bytes=link.overhead_bytes.value,
        uplink_bits_per_s=up.bits_per_s,
        downlink_bits_per_s=down.bits_per_s,
        latency_s=link.latency.value.mean,
        download_bytes=download_wire,
        download_s=download_wire * 8 / down.bits_per_s,
        forward_distribution=_distribution(system.scenario, profile, "forward"),
        encode_distribution=_distribution(system.scenario, profile, "encode"),
        latency_distribution=link.latency.value.distribution,
        power=power_of(group),
        heat=_heat(profile),
        battery=battery_of(group),
        uplink=up.channel,
        downlink=down.channel,
        cell=list(system.scenario.cells).index(group.cell) if group.cell else None,
        weight=group.weight,
        absences=group.absences,
        pace_deviation=_deviation(group, "pace"),
        rate_deviation=_deviation(group, "rate"),
        exchange=exchange,
    )


def _deviation(group: DeviceGroup, of: str) -> float:
    stated: Sourced[float] | None = getattr(group.sampled, of, None)
    return 0.0 if stated is None else stated.value


def _heat(profile: DeviceProfile) -> Heat | None:
    if profile.heat is None:
        return None
    return Heat(profile.heat.sustained_clock.value, profile.heat.time_constant.value)


def _batch(
    system: System, group: DeviceGroup, cost: BatchCost, bits_per_s: float, down_bits_per_s: float
) -> Batch:
    taps: Sequence[int] = system.taps if system.by_layer else (-1,)
    sizes = [group.link.wire_bytes(size) for size in cost.payload_bytes]
    side = cost.side_forward_s or (0.0,) * len(sizes)
    reply = group.link.wire_bytes(cost.reply_bytes)
    columns = (taps if sizes else (), cost.forward_s, cost.encode_s, sizes, cost.decode_s, side)
    return Batch(
        parts=tuple(
            Part(tap, forward, encode, size, size * 8 / bits_per_s, decode, side_s)
            for tap, forward, encode, size, decode, side_s in zip(*columns, strict=True)
        ),
        step_s=cost.step_s,
        backward_s=cost.backward_s,
        cached_s=cost.cached_s,
        reply_bytes=reply,
        reply_s=reply * 8 / down_bits_per_s,
    )
