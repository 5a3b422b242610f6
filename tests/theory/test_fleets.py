"""Fleets whose devices differ, and chargers that are plugged in at times."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from worlds import columns_of, device, stated, world_of

from mobisim import load
from mobisim.cost.energy import Battery, Power
from mobisim.errors import InputError
from mobisim.outages import outlook
from mobisim.scenario.profiles import Outages
from mobisim.sim.battery import Charge
from mobisim.span import FORWARD, STEP, TRANSFER
from mobisim.world import World

FORWARD_S, TRANSFER_S = 2.0, 1.5


def fleet(count: int, pace: float = 0.4, rate: float = 0.6, num_batches: int = 20) -> World:
    """Devices around the same medians, and a server that nobody waits for."""
    group = device(FORWARD_S, transfer_s=TRANSFER_S, run_ahead=50, count=count)
    sampled = {"sampled": {"pace": pace, "rate": rate}}
    return world_of(stated(num_batches, group | sampled, step_s=1e-9, workers=count))


def test_factors_are_log_normal() -> None:
    """Of a thousand devices, logarithms of pace and rate have the stated mean and deviation."""
    world = fleet(1000)
    for factors, deviation in ((world.paces, 0.4), (world.rates, 0.6)):
        assert factors is not None
        logs = np.log(factors)
        assert abs(logs.mean()) < 4 * deviation / math.sqrt(1000)
        assert logs.std() == pytest.approx(deviation, rel=4 / math.sqrt(2000))


def test_each_device_works_at_its_own_pace_and_rate() -> None:
    """Work and transfers last what is stated, divided by the device's factors."""
    world = fleet(30)
    columns = columns_of(world)
    lasted = columns.end - columns.start
    for kind, factors, median in (
        (FORWARD, world.paces, FORWARD_S),
        (TRANSFER, world.rates, TRANSFER_S),
    ):
        mine = columns.kind == kind
        assert factors is not None
        expected = median / factors[columns.device[mine]]
        assert lasted[mine] == pytest.approx(expected, rel=1e-9)


def test_a_fleet_makes_what_its_devices_make() -> None:
    """In steady state each device is stepped at 1 / max(f / pace, c / rate)."""
    world = fleet(20, num_batches=200)
    columns = columns_of(world)
    assert world.paces is not None
    assert world.rates is not None
    cycles = np.maximum(FORWARD_S / world.paces, TRANSFER_S / world.rates)
    for index, cycle in enumerate(cycles.tolist()):
        ends = columns.end[(columns.kind == STEP) & (columns.device == index)]
        assert np.diff(ends)[20:-20].mean() == pytest.approx(cycle, rel=1e-3)


def test_more_devices_leave_the_first_ones_as_they_were() -> None:
    """Draws belong to a device, not to its place in a row of draws."""
    few, many = fleet(5), fleet(50)
    assert few.paces is not None
    assert many.paces is not None
    assert few.paces.tolist() == many.paces[:5].tolist()


def charge_of(unplugged: dict[str, object] | None, charge_j: float = 100.0) -> Charge:
    """A battery of 1000 J that idles at 1 W, with a charger of 3 W; low below 200 J until 500 J."""
    battery = Battery(1000.0, charge_j, 3.0, 200.0, 500.0)
    windows = None if unplugged is None else Outages.model_validate(unplugged)
    return Charge(battery, Power(1.0, 5.0), outlook(windows, 0, "") if windows else None)


def test_a_charger_gives_nothing_while_it_is_unplugged() -> None:
    """400 J at 2 W take 200 s, and 50 s without the charger cost 100 s: their own and 50 J."""
    assert charge_of(None).rest_until(0.0) == 200.0
    assert charge_of({"windows": [["60 s", "110 s"]]}).rest_until(0.0) == 275.0
    assert charge_of({"windows": [["300 s", "310 s"]]}).rest_until(0.0) == 200.0
    assert charge_of({"up": "50 s", "down": "50 s"}).rest_until(0.0) == 650.0


def test_a_look_counts_the_time_without_charger() -> None:
    """After 100 s, of which 40 s unplugged, the charge has gained 60 times 3 J and lost 100."""
    charge = charge_of({"windows": [["50 s", "90 s"]]}, charge_j=300.0)
    assert charge.rest_until(100.0) == 100.0
    assert charge.charge_j == 300.0 + 60 * 3.0 - 100.0


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("devices[0].link.outages", "{up: 1 h, down: 1 s}", "devices[0].sampled.rate"),
        ("server.room", "3", "server.room"),
    ],
)
def test_what_is_not_covered_is_refused(place: str, value: str, says: str) -> None:
    """Links that differ and fail; room that those who vanish would hold."""
    profile = "profile: {kind: fixed, forward_s: 1, encode_s: 0}, link: wifi-5, sampled: {rate: 1}"
    absences = "absences: {kind: abrupt, up: 1 h, down: 1 s}"
    with pytest.raises(InputError, match=re.escape(says)):
        load("textbook_pipeline", [f"devices=[{{{profile}, {absences}}}]", f"{place}={value}"])
