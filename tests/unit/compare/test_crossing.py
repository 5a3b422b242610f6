"""Where a method on the device and one over the link take equally long."""

from __future__ import annotations

import math
from typing import cast

import pytest

from mobisim.compare.clock import Clock
from mobisim.compare.crossing import HIGHEST, LOWEST, crossing, crossings
from mobisim.report.comparison_table import crossing as sentence


class Watch:
    """LoRA takes 100 s anywhere; the others a floor, or the time of their bits if that is more."""

    def __init__(self, **floor_and_bits: tuple[float, float]) -> None:
        self.methods = floor_and_bits
        self.asked = 0

    def seconds(self, method: str, rate: float | None = None) -> float:
        self.asked += 1
        if method == "lora":
            return 100.0
        floor, bits = self.methods[method]
        return max(floor, bits / (rate or 5e6))


def clock(**floor_and_bits: tuple[float, float]) -> Clock:
    return cast("Clock", Watch(**floor_and_bits))


def test_crossing_is_where_the_bits_take_as_long() -> None:
    """8 Gbit in 100 s are 80 Mbit/s, and it takes few runs to find that."""
    watch = Watch(mobillm=(40.0, 8e9))
    found = crossing(cast("Clock", watch), "lora", "mobillm")
    assert found.rate == pytest.approx(80e6, rel=1e-4)
    assert found.faster is None
    assert watch.asked < 25
    assert sentence(found).startswith("Below 80 Mbit/s lora is faster than mobillm")


@pytest.mark.parametrize(
    ("floor", "bits", "faster"), [(101.0, 8e9, "lora"), (40.0, 99 * LOWEST, "mobillm")]
)
def test_no_crossing_is_said_with_who_is_faster(floor: float, bits: float, faster: str) -> None:
    """A server that is slower than the device helps at no rate; few bits cross any link in time."""
    found = crossing(clock(mobillm=(floor, bits)), "lora", "mobillm")
    assert (found.rate, found.faster) == (None, faster)
    assert sentence(found).startswith(f"{faster} is faster than")


def test_a_method_that_never_gets_there_has_no_crossing() -> None:
    """It has no time at any rate: its row says why."""
    watch = clock(mobillm=(40.0, 8e9), **{"split-lora": (math.inf, 8e9)})
    found = crossings(watch, ["mobillm", "split-lora", "lora"])
    assert [one.other for one in found] == ["mobillm"]
    assert crossings(watch, ["mobillm"]) == []


def test_known_times_are_used() -> None:
    """Between two rates of the table the search takes a few runs more, and ends there as well."""
    watch = Watch(mobillm=(40.0, 8e9))
    found = crossing(cast("Clock", watch), "lora", "mobillm", (1e6, 5e7, 1e8, 2e8))
    assert found.rate == pytest.approx(80e6, rel=1e-4)
    assert watch.asked < 14


def test_rates_are_looked_for_between_both_ends() -> None:
    """The crossing lies where the search began, whatever its size."""
    for rate in (LOWEST * 1.5, HIGHEST / 1.5):
        found = crossing(clock(mobillm=(1.0, 100 * rate)), "lora", "mobillm")
        assert found.rate == pytest.approx(rate, rel=1e-4)
