"""Targets, knobs and costs as people write them, and what they are told where they slip."""

from __future__ import annotations

import pytest
from commands import TOY

from mobisim.errors import InputError
from mobisim.planning.costs import parse_cost
from mobisim.planning.knobs import parse_find
from mobisim.planning.targets import parse_target
from mobisim.scenario.load import load, loads
from mobisim.scenario.schema import Target

SCENARIO = loads(TOY, "toy.yaml")


def test_clauses_are_read_with_their_units() -> None:
    """Several clauses, shares in per cent, percentiles, a time within which."""
    texts = ["accuracy >= 90 % within 2 h and makespan <= 1 d", "p95 finish <= 10 min"]
    accuracy, makespan, finish = parse_target(texts)
    assert (accuracy.quantity, accuracy.limit, accuracy.bound) == ("accuracy", 0.9, 7200.0)
    assert accuracy.metric == Target(metric="accuracy", value=0.9)
    assert (makespan.bound, makespan.metric) == (86400.0, None)
    assert (finish.percentile, finish.bound) == (95.0, 600.0)
    assert accuracy.ratio(3600.0) == 0.5
    (final,) = parse_target(["accuracy >= 0.8"])
    assert final.ratio(0.4) == 2.0
    assert final.ratio(1.0) == 0.8


def test_time_to_target_is_of_the_scenarios_own_target() -> None:
    """Its metric and value, within the time that is asked for."""
    (clause,) = parse_target(["time to target <= 1 h"], Target(metric="loss", value=0.4))
    assert (clause.quantity, clause.limit, clause.within_s) == ("loss", 0.4, 3600.0)
    with pytest.raises(InputError, match="no target of its own"):
        parse_target(["time_to_target <= 1 h"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("makspan <= 2 h", "did you mean 'makespan'"),
        ("acuracy >= 0.9", "did you mean 'accuracy'"),
        ("makespan <= 2", "the unit is missing"),
        ("makespan <= 2 hh", "did you mean 'h'"),
        ("makespan >= 2 h", "less makespan is better"),
        ("accuracy <= 0.9", "more accuracy is better"),
        ("makespan <= 2 h within 3 h", "within goes with a metric"),
        ("p95 makespan <= 2 h", "percentiles are of finish"),
        ("be quick", "no target"),
        ("accuracy >= 0.9 and loss <= 1", "one metric"),
        ("accuracy >= high", "a number such as 0.9"),
    ],
)
def test_slips_in_targets_are_named(text: str, said: str) -> None:
    """Where, what was expected, and the nearest name."""
    with pytest.raises(InputError, match=said) as error:
        parse_target([text])
    assert "--target" in str(error.value)


def test_ladders_have_three_figures_between_their_bounds() -> None:
    """From the wanted end on; whole numbers up to a thousand are all there."""
    least = parse_find("min devices[0].link.uplink from 1 to 5 Mbit/s", SCENARIO)
    assert (least.ladder[0], least.ladder[1], least.ladder[-1]) == (1e6, 1.01e6, 5e6)
    assert len(least.ladder) == 401
    most = parse_find("max devices[0].count from 1 to 2000", SCENARIO)
    assert (most.ladder[0], most.ladder[1], most.ladder[-1]) == (2000, 1990, 1)
    bits = parse_find("min wire.codec", load("lte"))
    assert (bits.ladder[0], bits.ladder[-1]) == ("int2", "fp32")
    some = parse_find("server.profile among rtx-4090=400, h100-sxm=1500", load("lte"))
    assert (some.ladder, some.weights) == (("rtx-4090", "h100-sxm"), (400.0, 1500.0))


def test_bounds_come_from_the_schema_where_it_has_any() -> None:
    """A count has them, an uplink those of any link; others are refused, with a way out."""
    count = parse_find("max devices[0].count", SCENARIO)
    assert count.open
    assert (count.ladder[-1], count.ladder[0]) == (1, 1_000_000)
    uplink = parse_find("min devices[0].link.uplink", SCENARIO)
    assert (uplink.ladder[0], uplink.ladder[-1]) == (1e4, 1e10)
    with pytest.raises(InputError, match=r"min num_batches from 1 to 64"):
        parse_find("min num_batches", SCENARIO)
    with pytest.raises(InputError, match=r"max devices\[0\].link.latency from A to B"):
        parse_find("max devices[0].link.latency", SCENARIO)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("min devices[0].link.uplnk", "did you mean 'uplink'"),
        ("min devises[0].link.uplink", "did you mean 'devices'"),
        ("min devices[3].count", "an index below 1"),
        ("least devices[0].count", "no knob"),
        ("min devices[0].count from 1 to 1", "equal bounds"),
        ("min devices[0].count from 1.5 to 3", "whole numbers as bounds"),
        ("min devices[0].link.uplink from 1 to 5", "the unit is missing"),
        ("min devices[0].link.uplink from 1 s to 5 s", "no unit of rate"),
        ("server.profile among a=b", "no weight"),
    ],
)
def test_slips_in_knobs_are_named(text: str, said: str) -> None:
    """A knob that does not exist is answered with the nearest name."""
    with pytest.raises(InputError, match=said) as error:
        parse_find(text, SCENARIO)
    assert "--find" in str(error.value)


def test_costs_are_worked_out_with_units() -> None:
    """Quantities in SI units, names by their weights, everything by the rules of arithmetic."""
    paths = ("server.workers", "devices[*].link.uplink")
    cost = parse_cost("300 * server.workers + 2 * devices[*].link.uplink / 1 Mbit/s", paths)
    assert cost({"server.workers": 3, "devices[*].link.uplink": 5e6}) == 910
    assert parse_cost("max(-server.workers, 2) ** 2", paths)({"server.workers": 3}) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("300 * server.wrokers", "did you mean 'server.workers'"),
        ("300 *", "no cost"),
        ("__import__('os')", "no cost"),
        ("server.workers.__class__", "no knob"),
        ("[1 for x in y]", "no cost"),
    ],
)
def test_slips_in_costs_are_named(text: str, said: str) -> None:
    """Nothing but arithmetic is worked out."""
    with pytest.raises(InputError, match=said):
        parse_cost(text, ("server.workers",))


def test_what_divides_by_zero_says_so() -> None:
    """No traceback for a cost that has no value."""
    with pytest.raises(InputError, match="zero"):
        parse_cost("1 / (server.workers - 1)", ("server.workers",))({"server.workers": 1})
