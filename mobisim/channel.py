"""Links whose rate is not simply constant: when a message that begins at an instant has ended.

Supplies are kept in whole numbers, so that a trace of any length is integrated without rounding;
only the instant at which a message ends is rounded, once. The rules are DESIGN.md's.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol

from mobisim.errors import InputError
from mobisim.outages import Outlook, outlook
from mobisim.scenario.profiles import Link, Outages, Tcp, TraceLink
from mobisim.scenario.quantities import Sourced
from mobisim.scenario.schema import Cell, DeviceGroup
from mobisim.scenario.traces import (
    MS_PER_S,
    OPPORTUNITY_BYTES,
    OpportunityTrace,
    RateTrace,
    Trace,
    mean_rate,
)
from mobisim.streams import uniform
from mobisim.units import BITS_PER_BYTE, human_time

MAX_FUTILE = 10_000  # outages in a row
OPPORTUNITY_BITS = OPPORTUNITY_BYTES * BITS_PER_BYTE
MATHIS = math.sqrt(3 / 2)  # mathis1997: packets per round trip are this over the root of the loss
# Binary places that are kept: every time and rate that can occur is a whole number of such parts.
TIME_PLACES, RATE_PLACES = 200, 100


@dataclass(frozen=True)
class Windows:
    """Slow start: the first window in bits, the round trip, and the idle time that resets it."""

    first_bits: int
    round_trip_s: float
    restart_s: float


@dataclass(frozen=True)
class Channel:
    """One direction of a link that is not of constant rate throughout; no offset is a random one.

    A rate is what TCP leaves of it.
    """

    rate: float | Trace
    offset_s: float | None = 0.0
    outages: Outages | None = None
    windows: Windows | None = None

    @cached_property
    def table(self) -> RateTable | OpportunityTrace:
        """What the rates add up to, once for all devices."""
        if isinstance(self.rate, OpportunityTrace):
            return self.rate
        if isinstance(self.rate, RateTrace):
            return RateTable(self.rate.time_s, self.rate.bit_per_s)
        return RateTable((0.0, 1.0), (self.rate, self.rate))

    @property
    def period_s(self) -> float:
        """Seconds after which the trace begins anew; zero for a constant rate."""
        return 0.0 if isinstance(self.rate, float) else self.rate.period_s


@dataclass(frozen=True)
class Direction:
    """One direction of a link: its rate, of a trace the mean, and its channel if that varies."""

    bits_per_s: float
    channel: Channel | None


def directions(group: DeviceGroup, cells: Mapping[str, Cell]) -> tuple[Direction, Direction]:
    """Up and down of a group's link, after what TCP and its cell leave of their rates."""
    link = group.link
    up, down = _direction(link, link.uplink.value), _direction(link, link.down.value)
    if group.cell is None:
        return up, down
    cell = cells[group.cell]
    return _within(up, cell.uplink.value), _within(down, cell.downlink.value)


def _within(direction: Direction, bits_per_s: float) -> Direction:
    return replace(direction, bits_per_s=min(direction.bits_per_s, bits_per_s))


def _direction(link: Link, rate: float | Trace) -> Direction:
    limited = _limited(rate, rate_limit(link))
    windows = _windows(link)
    if isinstance(limited, float) and link.outages is None and windows is None:
        return Direction(limited, None)
    channel = Channel(limited, _offset(link), link.outages, windows)
    return Direction(mean_rate(limited), channel)


def _offset(link: Link) -> float | None:
    stated = link.offset if isinstance(link, TraceLink) else Sourced(value=0.0)
    return stated.value if isinstance(stated, Sourced) else None


def rate_limit(link: Link) -> float:
    """The rate above which TCP does not go, in bit/s with packet overhead: window and loss."""
    tcp = link.tcp
    if tcp is None:
        return math.inf
    packets = min(_window_packets(link, tcp), _loss_packets(tcp))
    return packets * _packet_bits(link) / _round_trip(link)


def _window_packets(link: Link, tcp: Tcp) -> float:
    return math.inf if tcp.max_window is None else tcp.max_window.value // link.mtu_bytes.value


def _loss_packets(tcp: Tcp) -> float:
    return math.inf if tcp.loss is None else MATHIS / math.sqrt(tcp.loss.value)


def _packet_bits(link: Link) -> int:
    return (link.mtu_bytes.value + link.overhead_bytes.value) * BITS_PER_BYTE


def _round_trip(link: Link) -> float:
    return 2 * link.latency.value.mean


def _windows(link: Link) -> Windows | None:
    tcp = link.tcp
    if tcp is None or not tcp.slow_start:
        return None
    return Windows(
        first_bits=tcp.initial_packets.value * _packet_bits(link),
        round_trip_s=_round_trip(link),
        restart_s=max(tcp.restart_after.value, _round_trip(link)),
    )


def _limited(rate: float | Trace, limit: float) -> float | Trace:
    if isinstance(rate, float):
        return min(rate, limit)
    if isinstance(rate, RateTrace) and limit < math.inf:
        return rate.model_copy(update={"bit_per_s": tuple(min(r, limit) for r in rate.bit_per_s)})
    return rate


class Supply(Protocol):
    """What a direction can have carried before an instant, in whole parts of a bit."""

    bit: int

    def before(self, at: float) -> int:
        """The level at an instant."""
        ...

    def reached(self, level: int) -> float:
        """The instant at which a level above zero is reached."""
        ...


def whole(value: float, places: int) -> int:
    """A number in whole parts of that many binary places."""
    numerator, denominator = value.as_integer_ratio()
    return (numerator << places) // denominator


class RateTable:
    """A trace of rates, added up row by row in whole numbers."""

    def __init__(self, times: Sequence[float], rates: Sequence[float]) -> None:
        first = whole(times[0], TIME_PLACES)
        self.starts = [whole(time, TIME_PLACES) - first for time in times]
        self.rates = [whole(rate, RATE_PLACES) for rate in rates]
        ends = [*self.starts, 2 * self.starts[-1] - self.starts[-2]]
        lasted = [end - start for start, end in pairwise(ends)]
        carried = (rate * time for rate, time in zip(self.rates, lasted, strict=True))
        self.sums = [0, *accumulate(carried)]
        self.period, self.total = ends[-1], self.sums[-1]


class RateSupply:
    """A trace of rates, repeated."""

    bit = 1 << (TIME_PLACES + RATE_PLACES)

    def __init__(self, table: RateTable, offset_s: float) -> None:
        self.table, self.offset = table, whole(offset_s, TIME_PLACES)

    def before(self, at: float) -> int:
        """The integral of the rate from the trace's begin to an instant."""
        table = self.table
        cycles, rest = divmod(whole(at, TIME_PLACES) + self.offset, table.period)
        row = bisect_right(table.starts, rest) - 1
        within = table.rates[row] * (rest - table.starts[row])
        return cycles * table.total + table.sums[row] + within

    def reached(self, level: int) -> float:
        """The first instant at which the integral is `level`, rounded once."""
        table = self.table
        cycles = (level - 1) // table.total
        rest = level - cycles * table.total
        row = bisect_left(table.sums, rest) - 1  # its rate is above zero: the sum grows in it
        start = cycles * table.period + table.starts[row] - self.offset
        rate = table.rates[row]
        return (start * rate + rest - table.sums[row]) / (rate << TIME_PLACES)


class OpportunitySupply:
    """Delivery opportunities at whole milliseconds, repeated."""

    bit = 1

    def __init__(self, trace: OpportunityTrace, offset_s: float) -> None:
        self.stamps, self.offset = trace.ms, round(offset_s * MS_PER_S)

    def before(self, at: float) -> int:
        """The bits of all opportunities before an instant, those at the instant left out."""
        first = int(at * MS_PER_S)  # the millisecond of the first one left out, give or take one
        while first / MS_PER_S < at:
            first += 1
        while first > 0 and (first - 1) / MS_PER_S >= at:
            first -= 1
        if first + self.offset <= 0:
            return 0
        cycles, rest = divmod(first + self.offset - 1, self.stamps[-1])
        return (cycles * len(self.stamps) + bisect_right(self.stamps, rest)) * OPPORTUNITY_BITS

    def reached(self, level: int) -> float:
        """The instant of the opportunity that brings `level`."""
        cycles, index = divmod(-(-level // OPPORTUNITY_BITS) - 1, len(self.stamps))
        return (cycles * self.stamps[-1] + self.stamps[index] - self.offset) / MS_PER_S


class Course:
    """One direction of one link at work: it carries messages one after the other."""

    def __init__(self, supply: Supply, outlook: Outlook) -> None:
        self.supply, self.outlook = supply, outlook
        self.level = 0

    def end(self, start: float, num_bits: int) -> float:
        """When the message ends that begins at `start`."""
        supply = self.supply
        level, rest = max(supply.before(start), self.level), num_bits * supply.bit
        futile = 0
        for down_at, up_at in self.outlook.after(start):
            room = max(supply.before(max(down_at, start)) - level, 0)
            if rest <= room:
                break
            rest -= room
            level = max(level, supply.before(up_at))
            futile = 0 if room else futile + 1
            if futile > MAX_FUTILE:
                raise _never(up_at)
        self.level = level + rest
        return max(start, supply.reached(self.level))

    def copy(self) -> Course:
        """Another one that stands where this one does."""
        return copy(self)

    def interrupted(self) -> Course:
        """What goes on where a message was cut short that began as it stands here."""
        return self

    def room_bits(self, start: float, end: float) -> float:
        """The most that can be carried between two instants, both included."""
        supply = self.supply
        room = supply.before(math.nextafter(end, math.inf)) - supply.before(start)
        for down_at, up_at in self.outlook.after(start):
            if down_at >= end:
                break
            room -= supply.before(min(up_at, end)) - supply.before(max(down_at, start))
        return room / supply.bit


class WindowedCourse:
    """A course under TCP's slow start: windows that double each round trip until they fill it."""

    def __init__(self, course: Course, windows: Windows) -> None:
        self.course, self.windows = course, windows
        self.size = self.left = 0
        self.opened = 0.0
        self.filled = False
        self.ended = -math.inf

    def end(self, start: float, num_bits: int) -> float:
        """When the message ends that begins at `start`."""
        if start > self.ended:
            self._after_pause(start)
        at, rest = start, num_bits
        while not self.filled and rest > self.left:
            if self.left:
                at = self.course.end(at, self.left)
            rest -= self.left
            at = self._next_window(at)
        if rest:
            at = self.course.end(at, rest)
        self.left -= rest
        self.ended = at
        return at

    def copy(self) -> WindowedCourse:
        """Another one that stands where this one does."""
        twin = copy(self)
        twin.course = self.course.copy()
        return twin

    def interrupted(self) -> WindowedCourse:
        """What goes on where a message was cut short: the connection begins as at first."""
        self.ended = -math.inf
        return self

    def _after_pause(self, start: float) -> None:
        if start - self.ended > self.windows.restart_s:
            self.size, self.filled = self.windows.first_bits, False
        self.left, self.opened = self.size, start

    def _next_window(self, at: float) -> float:
        """The window is used up at `at`: when it goes on."""
        if at - self.opened >= self.windows.round_trip_s:
            self.filled = True
            return at
        self.opened += self.windows.round_trip_s
        self.size *= 2
        self.left = self.size
        return self.opened


def through(num_bytes: int, by: float, end_of: Callable[[int], float]) -> int:
    """How many bytes of a message that is cut at an instant are through by then.

    `end_of` says when so many bytes, had there been no more, would have ended.
    """
    return bisect_right(range(1, num_bytes), by, key=end_of)


def _never(at: float) -> InputError:
    """Outages and a trace that repeat in step may leave nothing between them for ever."""
    return InputError(
        "this link carries nothing any more: whatever its trace brings falls into outages",
        where="devices[*].link.outages",
        got=f"{MAX_FUTILE:,} outages in a row without a bit between them, up to {human_time(at)}",
        hint="state other lengths, or exponential ones",
    )


def course(channel: Channel, seed: int, device: int) -> Course:
    """A channel at work for one device, without slow start."""
    offset = channel.offset_s
    if offset is None:
        offset = uniform(seed, f"link-{device}/offset") * channel.period_s
    table = channel.table
    supply: Supply = (
        RateSupply(table, offset)
        if isinstance(table, RateTable)
        else OpportunitySupply(table, offset)
    )
    return Course(supply, outlook(channel.outages, seed, f"link-{device}/outages"))


def carrier(channel: Channel, seed: int, device: int) -> Course | WindowedCourse:
    """A channel at work for one device."""
    plain = course(channel, seed, device)
    return plain if channel.windows is None else WindowedCourse(plain, channel.windows)
