"""The second witness of links that vary: DESIGN.md's supplies, walked row by row in fractions.

It shares nothing with mobisim.channel but the description of a link, and takes no short cut: it
walks a trace from its begin, cycle by cycle, for each question.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from copy import copy
from fractions import Fraction
from itertools import count, takewhile

import numpy as np

from mobisim.channel import Channel, Windows
from mobisim.outages import joins_at
from mobisim.scenario.profiles import ConstantLink, Link, Outages, TraceLink
from mobisim.scenario.quantities import Duration, Sourced
from mobisim.scenario.traces import OpportunityTrace, RateTrace

Trace = RateTrace | OpportunityTrace


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def _rows(trace: RateTrace) -> Iterator[tuple[Fraction, Fraction, Fraction]]:
    """Begin, end and rate of each row, cycle after cycle, on the trace's own time."""
    times = [Fraction(time) - Fraction(trace.time_s[0]) for time in trace.time_s]
    times.append(times[-1] + (times[-1] - times[-2]))
    for cycle in count():
        for row, rate in enumerate(trace.bit_per_s):
            begin = cycle * times[-1]
            yield begin + times[row], begin + times[row + 1], Fraction(rate)


def _opportunities(trace: OpportunityTrace, offset_ms: int) -> Iterator[float]:
    """The instants of all opportunities; those before time 0 are negative."""
    for cycle in count():
        for stamp in trace.ms:
            yield (cycle * trace.ms[-1] + stamp - offset_ms) / 1000


class Line:
    """One direction of a link: which level a message ends at, and when that is."""

    def __init__(self, channel: Channel, seed: int, device: int) -> None:
        self.channel, self.seed, self.device = channel, seed, device
        self.level = Fraction(0)
        self.offset = self.draw_offset() if channel.offset_s is None else channel.offset_s

    def draw_offset(self) -> float:
        """A random place in the trace."""
        rate = self.channel.rate
        share = float(_generator(self.seed, f"link-{self.device}/offset").random())
        return 0.0 if isinstance(rate, float) else share * rate.period_s

    def supplied(self, at: float) -> Fraction:
        """S(t): the bits that can have been carried before an instant."""
        rate = self.channel.rate
        if isinstance(rate, float):
            return Fraction(rate) * Fraction(at)
        if isinstance(rate, OpportunityTrace):
            instants = _opportunities(rate, round(self.offset * 1000))
            return Fraction(
                12_000 * sum(1 for _ in takewhile(lambda instant: instant < at, instants))
            )
        assert isinstance(rate, RateTrace)
        until, total = Fraction(at) + Fraction(self.offset), Fraction(0)
        for begin, end, bits_per_s in _rows(rate):
            if begin >= until:
                break
            total += (min(end, until) - begin) * bits_per_s
        return total

    def instant_of(self, level: Fraction) -> float:
        """The first instant at which a level is supplied, rounded once."""
        rate = self.channel.rate
        if isinstance(rate, float):
            return float(level / Fraction(rate))
        if isinstance(rate, OpportunityTrace):
            needed = math.ceil(level / 12_000)
            instants = _opportunities(rate, round(self.offset * 1000))
            return next(at for number, at in enumerate(instants, start=1) if number == needed)
        total = Fraction(0)
        for begin, end, bits_per_s in _rows(rate):
            brings = (end - begin) * bits_per_s
            if total + brings >= level:
                return float(begin + (level - total) / bits_per_s - Fraction(self.offset))
            total += brings
        raise AssertionError("unreachable: traces never end")

    def carry(self, start: float, num_bits: int) -> float:
        """The end of a message that begins at `start`."""
        level, rest = max(self.supplied(start), self.level), Fraction(num_bits)
        for down, up in windows_of(self.channel.outages, self.seed, f"link-{self.device}/outages"):
            if up <= start:
                continue
            before_it = max(self.supplied(max(down, start)) - level, Fraction(0))
            if rest <= before_it:
                break
            rest -= before_it
            level = max(level, self.supplied(up))
        self.level = level + rest
        return max(start, self.instant_of(self.level))


def windows_of(stated: Outages | None, seed: int, stream: str) -> Iterator[tuple[float, float]]:
    """All windows from time 0 on in which something is down."""
    if stated is None:
        return
    joined = joins_at(stated, seed, stream)
    if joined:
        yield 0.0, joined
    for start, end in stated.windows:
        if end > joined:
            yield max(joined, start), end
    if stated.up is None or stated.down is None:
        return
    random, now = _generator(seed, stream), joined
    while True:
        down = now + _duration(stated.up.value, random)
        now = down + _duration(stated.down.value, random)
        yield down, now


def _duration(stated: Duration, random: np.random.Generator) -> float:
    """A stated duration, with its factor where it is random."""
    if stated.distribution == "constant":
        return stated.mean
    return stated.mean * float(random.standard_exponential())


class Pipe:
    """A line, by TCP's windows where there is slow start."""

    def __init__(self, channel: Channel, seed: int, device: int) -> None:
        self.line, self.windows = Line(channel, seed, device), channel.windows
        self.last_end: float | None = None
        self.size = 0
        self.unused = 0
        self.opened_at = 0.0
        self.link_is_filled = False

    def carry(self, start: float, num_bits: int) -> float:
        """The end of a message that begins at `start`."""
        if self.windows is None:
            return self.line.carry(start, num_bits)
        if self.last_end is None or start > self.last_end:
            self.open_after_pause(start, self.windows)
        now, rest = start, num_bits
        while rest:
            if self.link_is_filled:
                piece = rest
            elif self.unused == 0:
                now = self.open_next(now, self.windows)
                continue
            else:
                piece = min(rest, self.unused)
            now = self.line.carry(now, piece)
            rest, self.unused = rest - piece, self.unused - piece
        self.last_end = now
        return now

    def as_it_is(self) -> Pipe:
        """Another one that has carried the same."""
        twin = copy(self)
        twin.line = copy(self.line)
        return twin

    def forget(self, level: Fraction) -> None:
        """A message was cut short: it has used nothing, and TCP has it to do anew."""
        self.line.level, self.last_end = level, None

    def open_after_pause(self, start: float, windows: Windows) -> None:
        """The link is found idle."""
        pause = math.inf if self.last_end is None else start - self.last_end
        if pause > windows.restart_s:
            self.size, self.link_is_filled = windows.first_bits, False
        self.unused, self.opened_at = self.size, start

    def open_next(self, now: float, windows: Windows) -> float:
        """A window is used up: the next one opens, or none is needed any more."""
        if now - self.opened_at >= windows.round_trip_s:
            self.link_is_filled = True
            return now
        self.opened_at += windows.round_trip_s
        self.size = self.unused = 2 * self.size
        return self.opened_at


def whole_bytes(num_bytes: int, end_of: Callable[[int], float], by: float) -> int:
    """The most bytes of a torn message that would have ended by an instant, had they been all."""
    through, missing = 0, num_bytes
    while missing - through > 1:
        middle = (through + missing) // 2
        if end_of(middle) <= by:
            through = middle
        else:
            missing = middle
    return through


def stated_channels(link: ConstantLink | TraceLink) -> tuple[Channel | None, Channel | None]:
    """What a scenario states of a link's two directions, worked out a second time."""
    stated = (
        link.uplink.value,
        link.uplink.value if link.downlink is None else link.downlink.value,
    )
    return _stated(link, stated[0]), _stated(link, stated[1])


def limit(link: Link) -> float:
    """The rate that TCP's window and loss leave."""
    rounds = []
    if link.tcp is not None and link.tcp.max_window is not None:
        rounds.append(float(int(link.tcp.max_window.value) // link.mtu_bytes.value))
    if link.tcp is not None and link.tcp.loss is not None:
        rounds.append(math.sqrt(1.5) / math.sqrt(link.tcp.loss.value))
    if not rounds:
        return math.inf
    packet_bits = 8 * (link.mtu_bytes.value + link.overhead_bytes.value)
    return min(rounds) * packet_bits / (2 * link.latency.value.mean)


def stated_rate(link: ConstantLink | TraceLink, rate: float | Trace) -> float | Trace:
    """A rate or a trace, no faster than TCP allows."""
    most = limit(link)
    if isinstance(rate, float):
        return min(rate, most)
    if isinstance(rate, RateTrace) and math.isfinite(most):
        slower = [min(most, bits_per_s) for bits_per_s in rate.bit_per_s]
        return RateTrace(file=rate.file, time_s=rate.time_s, bit_per_s=tuple(slower))
    return rate


def _stated(link: ConstantLink | TraceLink, rate: float | Trace) -> Channel | None:
    slower = stated_rate(link, rate)
    windows = None
    if link.tcp is not None and link.tcp.slow_start:
        packet_bits = 8 * (link.mtu_bytes.value + link.overhead_bytes.value)
        round_trip = 2 * link.latency.value.mean
        windows = Windows(
            first_bits=link.tcp.initial_packets.value * packet_bits,
            round_trip_s=round_trip,
            restart_s=max(round_trip, link.tcp.restart_after.value),
        )
    if isinstance(slower, float) and windows is None and link.outages is None:
        return None
    offset: float | None = 0.0
    if isinstance(link, TraceLink):
        offset = link.offset.value if isinstance(link.offset, Sourced) else None
    return Channel(slower, offset, link.outages, windows)
