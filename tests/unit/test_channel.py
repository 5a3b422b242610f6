"""Links that vary: messages over traces, through outages and under TCP's slow start."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import pytest
from witness_links import windows_of

from mobisim.channel import Channel, Course, Windows, carrier, course, directions
from mobisim.scenario.profiles import Outages
from mobisim.scenario.schema import DeviceGroup
from mobisim.scenario.traces import OpportunityTrace, RateTrace, read_trace

TRACES = Path(__file__).parents[3] / "shared" / "traces"
RATES = RateTrace(time_s=(0.0, 1.0, 3.0), bit_per_s=(1000.0, 0.0, 2000.0))  # period 5 s
CHANCES = OpportunityTrace(format="mahimahi", ms=(2, 5, 5, 10))


def end(channel: Channel, start: float, num_bits: int) -> float:
    """When a message over a fresh link ends."""
    return carrier(channel, seed=0, device=0).end(start, num_bits)


@pytest.mark.parametrize(
    ("start", "num_bits", "expected"),
    [
        (0.0, 500, 0.5),
        (0.0, 1000, 1.0),
        (0.0, 1001, 3.0005),
        (1.5, 2000, 4.0),
        (4.0, 2500, 5.5),
        (0.25, 5000, 5.25),
        (10.0, 50_000, 60.0),
        (3.0, 54_000, 55.0),
    ],
)
def test_rates_are_integrated(start: float, num_bits: int, expected: float) -> None:
    """Each rate holds from its row to the next, the last as long as the one before, then again."""
    assert end(Channel(RATES), start, num_bits) == expected


@pytest.mark.parametrize(
    ("start", "num_bytes", "expected"),
    [
        (0.0, 1, 0.002),
        (0.0, 1500, 0.002),
        (0.0, 1501, 0.005),
        (0.0, 4500, 0.005),
        (0.002, 1500, 0.002),
        (0.0021, 1500, 0.005),
        (0.0, 6001, 0.012),
        (0.01, 3000, 0.012),
    ],
)
def test_opportunities_carry_1500_bytes(start: float, num_bytes: int, expected: float) -> None:
    """A transfer ends at the opportunity of its last byte; the last millisecond is the period."""
    assert end(Channel(CHANCES), start, 8 * num_bytes) == expected


def test_messages_share_an_opportunity_and_never_use_it_twice() -> None:
    """What one message leaves of an opportunity serves the next one at that instant."""
    link = carrier(Channel(CHANCES), seed=0, device=0)
    assert [link.end(0.0, 8 * 1000), link.end(0.002, 8 * 500), link.end(0.002, 8)] == [
        0.002,
        0.002,
        0.005,
    ]


def walked(trace: RateTrace, start: float, num_bits: int) -> float:
    """The end of a transfer over a trace that begins at zero, row by row, in fractions."""
    times = [Fraction(time) for time in trace.time_s]
    times.append(2 * times[-1] - times[-2])
    at, rest = Fraction(start), Fraction(num_bits)
    for cycle in itertools.count(at // times[-1]):
        for row, rate in enumerate(trace.bit_per_s):
            begin = max(at, cycle * times[-1] + times[row])
            brings = (cycle * times[-1] + times[row + 1] - begin) * Fraction(rate)
            if brings >= rest:
                return float(begin + rest / Fraction(rate))
            rest -= max(brings, Fraction(0))
    raise AssertionError("unreachable: traces never end")


def real_traces(pattern: str) -> list[Path]:
    """Recorded traces, where this machine has them."""
    return sorted(TRACES.glob(pattern))


@pytest.mark.parametrize("path", real_traces("derived_1s/*.csv"), ids=lambda path: path.stem)
def test_recorded_rates_are_integrated_to_a_billionth(path: Path) -> None:
    """Transfers over recorded CSV traces last what a walk along the rows says."""
    trace = RateTrace.model_validate(read_trace(path, str(path)))
    choose = Random(path.stem)
    for _ in range(20):
        start, bits = choose.uniform(0, 3 * trace.period_s), choose.randint(1, 10**9)
        expected = walked(trace, start, bits)
        assert end(Channel(trace), start, bits) - start == pytest.approx(
            expected - start, rel=1e-9, abs=1e-9
        )


@pytest.mark.parametrize("path", real_traces("mahimahi/*short.up"), ids=lambda path: path.stem)
def test_recorded_opportunities_are_counted(path: Path) -> None:
    """Transfers over recorded Mahimahi traces end at the right line of the file."""
    trace = OpportunityTrace.model_validate(read_trace(path, str(path)))
    lines = [int(line) for line in path.read_text().split()]
    every = np.concatenate([np.array(lines) + cycle * lines[-1] for cycle in range(4)])
    choose = Random(path.stem)
    for _ in range(50):
        start_ms, size = choose.randint(0, 2 * lines[-1]), choose.randint(1, 10_000_000)
        first = int(np.searchsorted(every, start_ms))
        expected = every[first + math.ceil(size / 1500) - 1] / 1000
        assert end(Channel(trace), start_ms / 1000, 8 * size) == expected


def test_a_random_offset_is_the_links_own() -> None:
    """Devices start at places of their own in the trace, the same in every run."""
    ends = [[course(Channel(RATES, None), 1, i).end(0.0, 1000) for i in range(5)] for _ in "ab"]
    assert ends[0] == ends[1]
    assert len(set(ends[0])) == 5


def test_a_transfer_goes_on_after_an_outage() -> None:
    """Nothing is carried in an outage, and nothing is sent twice."""
    outages = Outages.model_validate({"windows": [["1 s", "2 s"], ["2.5 s", "4 s"]]})
    channel = Channel(1000.0, outages=outages)
    assert end(channel, 0.5, 400) == 0.9
    assert end(channel, 0.5, 500) == 1.0
    assert end(channel, 0.5, 1000) == 2.5
    assert end(channel, 0.5, 1001) == pytest.approx(4.001, rel=1e-15)
    assert end(channel, 1.5, 100) == 2.1


@pytest.mark.parametrize("seed", range(20))
def test_bytes_are_conserved_under_outages(seed: int) -> None:
    """What the messages of a busy link carry is rate times the time that it was up."""
    by_turns = {"mean": "0.5 s", "distribution": "exponential"}
    outages = Outages.model_validate({"up": by_turns, "down": by_turns})
    channel, choose = Channel(8000.0, outages=outages), Random(seed)
    link, at, carried = carrier(channel, seed, 3), 0.0, 0
    for _ in range(200):
        bits = choose.randint(1, 10_000)
        at, carried = link.end(at, bits), carried + bits
    down = 0.0
    for low, high in windows_of(outages, seed, "link-3/outages"):
        if low > at:
            break
        down += min(high, at) - low
    assert (at - down) * 8000.0 == pytest.approx(carried, rel=1e-9)


def slow(first_bits: int = 1000, round_trip_s: float = 1.0, rate: float = 8000.0) -> Channel:
    """A link under slow start: windows of 1,000, 2,000, 4,000, 8,000 bits."""
    return Channel(rate, windows=Windows(first_bits, round_trip_s, restart_s=2.0))


@pytest.mark.parametrize(
    ("num_bits", "expected"),
    [(1000, 0.125), (1001, 1.000125), (3000, 1.25), (3001, 2.000125), (7000, 2.5), (15_000, 4.0)],
)
def test_slow_start_sends_a_doubling_window_each_round_trip(num_bits: int, expected: float) -> None:
    """Each window waits for the round trip of the one before until one fills it."""
    assert end(slow(), 0.0, num_bits) == pytest.approx(expected, rel=1e-15)


def test_a_filled_link_does_not_pause_any_more() -> None:
    """From the window on that lasts a round trip, bits follow one another."""
    assert end(slow(), 0.0, 15_000 + 80_000) == pytest.approx(4.0 + 10.0)


def test_windows_are_kept_over_short_pauses_and_small_after_long_ones() -> None:
    """A pause beyond the restart time begins slow start anew."""
    link = carrier(slow(), 0, 0)
    assert link.end(0.0, 3000) == 1.25
    assert link.end(2.0, 2000) == 2.25  # a window of 2,000 opens anew
    assert link.end(10.0, 1001) == pytest.approx(11.000125)  # and again one of 1,000


def group(**link: object) -> DeviceGroup:
    """A group with a link of 100 Mbit/s and a round trip of 100 ms."""
    stated = {"kind": "constant", "uplink": "100 Mbit/s", "latency": "50 ms", "overhead_bytes": 0}
    profile = {"kind": "fixed", "forward_s": 1.0, "encode_s": 0.0}
    return DeviceGroup.model_validate({"profile": profile, "link": stated | link})


def test_the_window_limits_the_rate() -> None:
    """64 KiB per round trip of 100 ms are 43 packets of 1,500 bytes: 5.16 Mbit/s."""
    up, down = directions(group(tcp={"max_window": "64 KiB", "slow_start": False}), {})
    assert up.bits_per_s == down.bits_per_s == pytest.approx(43 * 1500 * 8 / 0.1)
    assert up.channel is None


def test_loss_limits_the_rate_as_mathis_says() -> None:
    """One packet in a hundred lost: 12.2 packets per round trip, 1.47 Mbit/s."""
    up, _ = directions(group(tcp={"loss": 0.01, "slow_start": False}), {})
    assert up.bits_per_s == pytest.approx(1500 * 8 / 0.1 * math.sqrt(1.5) / 0.1)


def test_room_is_what_the_link_can_carry() -> None:
    """The check of finished runs integrates the trace forwards, outages left out."""
    outages = Outages.model_validate({"windows": [["0.5 s", "0.75 s"]]})
    found: Course = course(Channel(RATES, outages=outages), 0, 0)
    assert found.room_bits(0.0, 1.0) == pytest.approx(750)
    assert found.room_bits(0.6, 6.0) == pytest.approx(250 + 4000 + 1000)
