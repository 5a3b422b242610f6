"""Searches along ladders, against looking everywhere, on functions that are known."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

import pytest

from mobisim.errors import InputError
from mobisim.planning.costs import parse_cost
from mobisim.planning.knobs import Knob
from mobisim.planning.search import Found, Shortfall, bracket, first_met
from mobisim.planning.several import cheapest

COUNT = 700


def searched(ratio: Callable[[int], float], count: int = COUNT) -> Found:
    """A search, which must not look at the same rung twice."""
    seen: set[int] = set()

    def heights(index: int) -> tuple[Shortfall, ...]:
        assert index not in seen
        seen.add(index)
        return (Shortfall(0, ratio(index)),)

    found = first_met(count, heights)
    assert seen == set(found.tried)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_bisection_finds_where_a_falling_shortfall_is_met(seed: int) -> None:
    """The very first rung, in a fiftieth of the rungs."""
    source = random.Random(seed)
    first, steep = source.randrange(1, COUNT), source.uniform(1e-4, 3)
    found = searched(lambda index: 1 + steep * (first - index) / COUNT)
    assert (found.index, found.how, found.monotone) == (first, "bisection", True)
    assert len(found.tried) <= COUNT / 50


@pytest.mark.parametrize("seed", range(20))
def test_a_scan_finds_a_window(seed: int) -> None:
    """Neither end meets the target; a window wider than a step of the scan is found exactly."""
    source = random.Random(seed)
    low = source.randrange(40, COUNT - 80)
    high = low + source.randrange(COUNT // 24 + 1, 40)
    found = searched(lambda index: 1 + max(low - index, index - high) / COUNT)
    assert (found.index, found.how, found.monotone) == (low, "scan", False)
    assert len(found.tried) <= COUNT / 10


def test_a_narrow_window_is_found_by_its_slopes() -> None:
    """Two rungs of seven hundred, where the shortfall leads there."""
    found = searched(lambda index: 1 + max(333 - index, index - 335) / COUNT)
    assert found.index == 333


def test_what_bends_between_the_ends_is_scanned() -> None:
    """Both an island and the easy end meet it, and a point between is on it: the answer."""
    island = range(150, 200)
    found = searched(lambda index: 0.9 if index in island or index > 650 else 2 - index / COUNT)
    assert found.index == 150
    assert not found.monotone


def test_what_cannot_be_met_says_what_comes_nearest() -> None:
    """Of equals the most wanted; no scan where the shortfall falls."""
    found = searched(lambda index: max(1.5, 3 - index / 100))
    assert found.index is None
    assert found.tried[found.nearest][0].ratio == 1.5
    assert (found.how, len(found.tried)) == ("end", 5)


def test_clauses_that_pull_apart_are_scanned() -> None:
    """Seen together the points fall, but one clause rises: a window may lie between them."""

    def heights(index: int) -> tuple[Shortfall, ...]:
        return Shortfall(0, max(1.0, 60 / (index + 1))), Shortfall(0, min(1.6, (index + 1) / 90))

    found = first_met(COUNT, heights)
    assert (found.index, found.how) == (59, "scan")


def test_ranks_come_before_ratios() -> None:
    """What does not fit is further off than what is late, and a metric never reached between."""
    late, never, unfit = Shortfall(0, 99.0), Shortfall(1, 1.01), Shortfall(2, 1.001)
    assert late < never < unfit
    assert not never.met
    assert late.height < never.height < unfit.height


@pytest.mark.parametrize(("wanted", "edge"), [("min", 37), ("max", 36)])
def test_bounds_are_doubled_until_they_hold_the_answer(
    wanted: Literal["min", "max"], edge: int
) -> None:
    """The least that suffices, or the most that still does, lies between them."""

    def height(number: int) -> Shortfall:
        met = (number >= 37) == (wanted == "min")
        return Shortfall(0, 0.5 if met else 100 / number)

    low, high = bracket(1, 10**6, wanted, height)
    assert low <= edge <= high <= 64


def test_doubling_ends_where_more_brings_nothing() -> None:
    """A server that is no bottleneck does not get a hundred thousand workers."""
    assert bracket(1, 10**6, "min", lambda n: Shortfall(0, 1.5))[1] == 8


@pytest.mark.parametrize("seed", range(5))
def test_the_cheapest_of_two_knobs(seed: int) -> None:
    """As cheap as the best of all combinations, in a tenth of the runs."""
    source = random.Random(seed)
    a, b = source.uniform(1, 9), source.uniform(1, 9)
    knobs = (
        Knob("server.workers", "min", range(1, 13)),
        Knob("devices[0].run_ahead", "min", range(1, 201)),
    )
    cost = parse_cost(
        "20 * server.workers + devices[0].run_ahead", ("server.workers", knobs[1].path)
    )

    def height(rungs: tuple[int, ...]) -> Shortfall:
        return Shortfall(0, 4 / (a * (rungs[0] + 1)) + 40 / (b * (rungs[1] + 1)))

    found = cheapest(knobs, cost, height)
    every = [(i, j) for i in range(12) for j in range(200) if height((i, j)).met]
    prices = {(i, j): 20 * (i + 1) + j + 1 for i, j in every}
    assert found.indices is not None
    assert prices[found.indices[0], found.indices[1]] == min(prices.values())
    assert len(found.tried) <= 240


def test_evolution_comes_near_where_combinations_are_too_many() -> None:
    """Three long ladders: within a few per cent of the best that theory knows."""
    paths = ("a", "b", "c")
    knobs = tuple(Knob(path, "min", range(1, 601)) for path in paths)
    found = cheapest(
        knobs,
        parse_cost("a + b + c", paths),
        lambda rungs: Shortfall(0, 1e6 / ((rungs[0] + 1) * (rungs[1] + 1) * (rungs[2] + 1))),
    )
    assert found.how == "evolution"
    assert found.indices is not None
    assert sum(found.indices) + 3 <= 300 * 1.1


def test_a_cost_must_rise_with_what_is_less_wanted() -> None:
    """Else bisection would look at the wrong end."""
    knobs = (Knob("a", "max", range(9, 0, -1)), Knob("b", "min", range(1, 5)))
    with pytest.raises(InputError, match="falls where a leaves what is wanted"):
        cheapest(knobs, parse_cost("a + b", ("a", "b")), lambda rungs: Shortfall(0, 0.5))
