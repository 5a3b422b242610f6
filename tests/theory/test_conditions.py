"""Heat, battery and a shared machine against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from worlds import columns_of, device, stated, world_of

from mobisim.cost.energy import Battery, Power
from mobisim.report.energy import Meter
from mobisim.report.metrics import MetricsFold
from mobisim.sim.heat import Warmth
from mobisim.span import ENCODE, FORWARD, PAUSE, STEP, Block, SpanColumns
from mobisim.world import Contention, Heat, World

TAU, SHARE = 300.0, 0.6


def _world(
    num_batches: int, forward_s: float, step_s: float, transfer_s: float = 1e-6,
    run_ahead: int = 1000, **conditions: object,
) -> World:  # fmt: skip
    """One device, whose link takes next to no time unless told."""
    link = device(forward_s, transfer_s=transfer_s, run_ahead=run_ahead)
    scenario = stated(num_batches, link, step_s=step_s)
    world = world_of(scenario)
    return replace(world, groups=(replace(world.groups[0], **conditions),))  # type: ignore[arg-type]


def _lasted(columns: SpanColumns, kind: int) -> np.ndarray:
    mine = columns[columns.kind == kind]
    return np.asarray(mine.end - mine.start)


def test_one_long_piece_is_the_integral_of_the_pace() -> None:
    """Work done is the pace's integral: SHARE t + (1 - SHARE) TAU (1 - exp(-t / TAU))."""
    for seconds in (1e-3, 1.0, 100.0, 1e5):
        lasts = Warmth(Heat(SHARE, TAU)).lasts(0.0, seconds)
        done = SHARE * lasts + (1 - SHARE) * TAU * (1 - math.exp(-lasts / TAU))
        assert done == pytest.approx(seconds, rel=1e-12)
        assert seconds <= lasts <= seconds / SHARE


def test_many_short_pieces_are_one_long_one() -> None:
    """How the work is cut into pieces does not matter where there is no rest between them."""
    whole = Warmth(Heat(SHARE, TAU)).lasts(0.0, 500.0)
    warmth, now = Warmth(Heat(SHARE, TAU)), 0.0
    for _ in range(1000):
        now += warmth.lasts(now, 0.5)
    assert now == pytest.approx(whole, rel=1e-9)


def test_a_device_that_never_rests_ends_at_its_sustained_pace() -> None:
    """Its last forwards last 1 / SHARE times as long as its first one."""
    columns = columns_of(_world(2000, 2.0, 0.5, heat=Heat(SHARE, TAU)))
    forwards = _lasted(columns, FORWARD)
    assert forwards[0] == pytest.approx(2.0, rel=0.01)
    assert forwards[-1] == pytest.approx(2.0 / SHARE, rel=1e-3)
    assert (np.diff(forwards) >= -1e-9).all()


def test_rest_keeps_a_device_cool() -> None:
    """A device that computes the share u of the time works at 1 - (1 - SHARE) u."""
    # Step-bound with run-ahead 1: forward k + 1 starts when step k does, every 4 s.
    warm = _world(2000, 1.0, 4.0, run_ahead=1, heat=Heat(SHARE, TAU))
    lasted = _lasted(columns_of(warm), FORWARD)[-1]
    share = lasted / 4.0
    assert 1.0 / lasted == pytest.approx(1 - (1 - SHARE) * share, rel=2e-3)


def test_a_full_share_changes_nothing() -> None:
    """A device that keeps all of its pace is a device without heat."""
    plain = columns_of(_world(50, 0.7, 0.3))
    warm = columns_of(_world(50, 0.7, 0.3, heat=Heat(1.0, TAU)))
    assert warm.end == pytest.approx(plain.end, rel=1e-12)


# -- one machine


@pytest.mark.parametrize(("f", "s"), [(1.0, 0.4), (0.4, 1.0), (0.5, 0.5)])
def test_who_is_busy_all_along_pays_for_the_other(f: float, s: float) -> None:
    """The busier side never stops; the other one's time beside it costs it its slowdown.

    With device slowdown a and server slowdown b, a device-bound cycle T has the worker at work for
    s b of it, so f = (T - s b) + s b / a; and the other way round.
    """
    a, b = 1.3, 1.5
    world = replace(_world(400, f, s, run_ahead=3), contention=Contention(a, b))
    steps = columns_of(world)
    ends = steps.end[steps.kind == STEP]
    by_device, by_server = f + s * b * (1 - 1 / a), s + f * a * (1 - 1 / b)
    expected = by_device if s * b < by_device else by_server
    assert np.diff(ends)[200:].mean() == pytest.approx(expected, rel=5e-3)


def test_no_slowdown_changes_nothing() -> None:
    """A shared machine on which nobody slows anybody down is two machines."""
    plain = columns_of(_world(50, 0.7, 0.3))
    shared = columns_of(replace(_world(50, 0.7, 0.3), contention=Contention(1.0, 1.0)))
    assert shared.end == pytest.approx(plain.end, rel=1e-12)


# -- battery

IDLE, LOAD, CHARGER = 1.0, 6.0, 3.0
POWER = Power(IDLE, LOAD)


def _battery(charge: float, duty: float | None = None, **more: float) -> Battery:
    numbers: dict[str, Any] = {
        "capacity_j": 1000.0,
        "low_j": 200.0,
        "resume_j": 500.0,
        "charger_w": CHARGER,
    }
    return Battery(charge_j=charge, duty=duty, **(numbers | more))


def _charge_over_time(columns: SpanColumns, battery: Battery) -> tuple[np.ndarray, np.ndarray]:
    """The charge at the end of each span of the device, summed from its spans alone."""
    own = columns[np.isin(columns.kind, (FORWARD, ENCODE, PAUSE))]
    lasted = own.end - own.start
    works = np.isin(own.kind, (FORWARD, ENCODE))
    gained = battery.charger_w * own.end - IDLE * own.end
    charge = battery.charge_j + gained - np.cumsum(np.where(works, (LOAD - IDLE) * lasted, 0.0))
    return own.kind, charge


def test_a_low_battery_rests_between_its_bounds() -> None:
    """It works down to `below`, a mini-batch at most beneath it, and rests up to `resume`."""
    battery = _battery(300.0)
    world = _world(800, 2.0, 0.5, power=POWER, battery=battery)
    kinds, charge = _charge_over_time(columns_of(world), battery)
    after_pause = charge[kinds == PAUSE]
    assert len(after_pause) > 3
    assert after_pause == pytest.approx(np.full(len(after_pause), battery.resume_j), rel=1e-9)
    assert charge.min() >= battery.low_j - (LOAD - CHARGER) * 2.0 - 1e-6


def test_a_full_enough_battery_changes_nothing() -> None:
    """Without a low charge there is no pause and the same timeline."""
    plain = columns_of(_world(50, 0.7, 0.3))
    full = columns_of(_world(50, 0.7, 0.3, power=POWER, battery=_battery(1000.0)))
    assert (full.end == plain.end).all()


def test_a_slow_device_works_its_duty() -> None:
    """Below the threshold it works the stated share of the time."""
    battery = _battery(100.0, duty=0.25, charger_w=0.0)
    columns = columns_of(_world(100, 2.0, 0.5, power=POWER, battery=battery))
    works, rests = _lasted(columns, FORWARD), _lasted(columns, PAUSE)
    assert len(rests) == 99
    assert works.sum() / (works.sum() + rests.sum()) == pytest.approx(0.25, rel=0.01)


# -- joules


def test_joules_of_spans_are_joules_of_devices() -> None:
    """What spans draw and idling in between comes to what the powers say of the whole run."""
    radio = {"base_power": "500 mW", "power_per_rate": "100 mW/(Mbit/s)"}
    link = device(0.6, encode_s=0.2, transfer_s=1.0, payload_bytes=1_000_000, radio=radio)
    link["profile"] |= {"idle_power": "1 W", "load_power": "6 W", "battery": "1 Wh"}
    link["absences"] = {"windows": [["1.2 s", "1.3 s"]], "kind": "abrupt"}
    scenario = stated(20, link | {"run_ahead": 2}, step_s=0.3, payload_bytes=1_000_000)
    world = world_of(scenario)
    columns = columns_of(world)
    meter = Meter(world)
    totals = MetricsFold(world).add(Block(list(columns.spans()))).totals()
    usage = meter.usage(totals)
    assert usage is not None
    joules = meter.joules(columns)
    own = columns.actor == 0
    accounted = float((columns.end - columns.start)[own].sum())
    spent = np.nansum(joules) + 1.0 * (totals.makespan_s - accounted)
    assert spent == pytest.approx(float((usage.idle + usage.compute + usage.radio)[0]))
    # By hand: 20 transfers of 1 s at 8 Mbit/s draw 0.5 W and 0.1 J per Mbit. What 0.4 s are lost of
    # as the phone vanishes, a transfer and a forward, draws as much.
    assert usage.radio[0] == pytest.approx(20.4 * (0.5 + 0.8))
    assert usage.compute[0] == pytest.approx((20 * 0.8 + 0.4) * 5.0)
    assert usage.battery_share[0] == pytest.approx(spent / 3600)
    assert np.isnan(joules[np.isin(columns.kind, (STEP,))]).all()


def test_unknown_power_gives_no_energy() -> None:
    """A device of unknown power leaves the question open."""
    world = _world(3, 0.7, 0.3)
    totals = MetricsFold(world).add(Block(list(columns_of(world).spans()))).totals()
    assert Meter(world).usage(totals) is None
