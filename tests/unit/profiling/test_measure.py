"""The measurement's rounds: when they end, what they leave out, what they throw away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from mobisim.errors import InputError
from mobisim.profiling.cases import Case, Laps
from mobisim.profiling.measure import Limits, Session, Taken
from mobisim.profiling.stopwatch import Timed


def timed(name: str) -> Timed:
    """An operator of no size."""
    return Timed(name, 1, 1, 1, 1, "fp32")


def case(name: str, seconds: Callable[[], float], flop: float = 1.0) -> Case:
    """A case that claims to have taken so long, and takes no time."""
    return Case(name, flop, lambda: lambda: {timed(name): seconds()})


class Watched:
    """A session, with what it said and the order in which samples came."""

    def __init__(self, budget_s: float) -> None:
        self.notices: list[str] = []
        self.order: list[str] = []
        self.session = Session(Limits(budget_s), self.keep, self.notices.append)

    def keep(self, one: Case, _laps: Laps) -> None:
        """Take a sample."""
        self.order.append(one.name)

    def run(self, *cases: Case) -> Taken:
        """Measure."""
        return self.session.run(cases)


def test_it_ends_once_every_median_is_sure() -> None:
    """Steady cases need six samples each, far below the budget."""
    taken = Watched(60.0).run(case("a", lambda: 1.0), case("b", lambda: 2.0))
    assert {name: len(laps) for name, laps in taken.items()} == {"a": 6, "b": 6}


def test_it_ends_with_the_budget() -> None:
    """A case that never gets sure is measured until the time is up."""
    numbers = count(1)
    begun = time.monotonic()
    taken = Watched(0.3).run(case("wild", lambda: float(next(numbers) % 7 + 1)))
    assert time.monotonic() - begun < 3.0
    assert len(taken["wild"]) > 6


def test_what_needs_many_samples_gets_them_beyond_the_budget() -> None:
    """Percentiles need more than a median; nothing else is measured any longer."""
    whole = Case("whole", 1.0, lambda: lambda: {timed("whole"): 1.0}, least=30)
    numbers = count(1)
    wild = case("wild", lambda: float(next(numbers) % 7 + 1), flop=0.0)
    taken = Watched(1e-6).run(whole, wild)
    assert len(taken["whole"]) == 30
    assert len(taken["wild"]) < 5


def test_rounds_are_shuffled_by_the_seed() -> None:
    """The order changes from round to round, and is the same for the same seed."""
    orders = []
    for _ in range(2):
        session = Watched(60.0)
        session.run(*(case(name, lambda: 1.0) for name in "abcdefgh"))
        orders.append(list(session.order))
    assert orders[0] == orders[1]
    assert orders[0][:16] != orders[0][16:32]


def test_a_machine_that_sleeps_stops_the_measurement_and_keeps_its_samples() -> None:
    """Where the clocks move apart the sample at hand is dropped, those before are kept."""

    def clocks() -> Iterator[tuple[float, float]]:
        for reading in count():
            yield float(reading), float(reading) + (3600.0 if reading > 6 else 0.0)

    readings = clocks()
    watched = Watched(60.0)
    watched.session.clocks = lambda: next(readings)
    with pytest.raises(InputError) as caught:
        watched.run(case("a", lambda: 1.0))
    assert "the clocks moved apart by 3600.0 s" in str(caught.value)
    assert "goes on with the samples taken so far" in str(caught.value)
    assert watched.order == ["a"] * 4  # two of three a visit; the seventh run was interrupted


def test_a_clock_that_is_set_back_is_no_sleep() -> None:
    """A wall clock may be corrected; only time that went by unseen counts."""
    readings = iter([(float(n), float(n) - (50.0 if n > 3 else 0.0)) for n in range(100)])
    watched = Watched(60.0)
    watched.session.clocks = lambda: next(readings)
    assert len(watched.run(case("a", lambda: 1.0))["a"]) == 6


def test_a_run_wildly_long_stops_the_measurement_too() -> None:
    """Fifty times the median and more than five seconds is no time of an operator."""
    seconds = iter([*[1.0] * 5, 400.0, *[1.0] * 10])
    watched = Watched(60.0)
    with pytest.raises(InputError, match=r"a took 400\.0 s"):
        watched.run(case("a", lambda: next(seconds)))
    assert watched.order == ["a"] * 2  # the warm-up and each visit's first run are unseen


def test_what_is_too_long_for_the_budget_is_left_out() -> None:
    """Cases costlier than one that took long are left out, by name."""

    def slow() -> float:
        time.sleep(0.02)
        return 0.02

    session = Watched(0.6)
    taken = session.run(case("long", slow, flop=1e9), case("longer", slow, flop=1e10))
    assert list(taken) == ["long"]
    assert session.notices == ["left out, too long for this budget: longer"]


class VirtualTime:
    """Clocks that go on by themselves a little with each look, and by as much as is slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds

    def monotonic(self) -> float:
        """Any clock."""
        self.now += 1e-5
        return self.now

    perf_counter = time = monotonic


def test_long_cases_come_every_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """They even out within what short ones must repeat, and would eat the budget."""
    virtual = VirtualTime()
    monkeypatch.setattr("mobisim.profiling.measure.time", virtual)

    def wild(pause_s: float) -> float:
        virtual.sleep(pause_s)
        return next(numbers) % 7 + 1.0

    numbers = count(1)
    watched = Watched(1.2)
    watched.run(case("long", lambda: wild(0.03)), case("short", lambda: wild(0.0), flop=0.01))
    visits = watched.order.count("short") / 2  # two samples each
    assert visits > 100
    assert watched.order.count("long") < 0.5 * visits


def test_samples_taken_so_far_are_kept_when_it_is_stopped() -> None:
    """Each sample goes to the sink at once."""
    seconds = iter([1.0, 1.0, 1.0, 1.0])
    session = Watched(60.0)

    def stop() -> float:
        try:
            return next(seconds)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        session.run(case("a", stop))
    assert session.order == ["a", "a"]
