from __future__ import annotations

import math
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mobisim.scenario.quantities import (
    ByteCount,
    Duration,
    PositiveByteCount,
    PositiveDuration,
    Quantity,
    Rate,
    Sourced,
    Time,
    TimeOrZero,
)
from mobisim.units import SIZE


def read(kind: Any, value: Any) -> Any:
    """The value as that kind."""
    return TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (Time, "10 ms", 0.01),
        (TimeOrZero, "0 s", 0.0),
        (TimeOrZero, 0, 0.0),
        (TimeOrZero, 0.0, 0.0),
        (Rate, "5 Mbit/s", 5e6),
        (Annotated[float, Quantity(SIZE, zero=True)], 0, 0.0),
        (ByteCount, 1500, 1500),
        (ByteCount, 1500.0, 1500),
        (ByteCount, "1.5 kB", 1500),
        (ByteCount, 0, 0),
        (PositiveByteCount, 1, 1),
        (Duration, 0.4, Duration(mean="0.4 s")),
        (Duration, "400 ms", Duration(mean="0.4 s")),
        (PositiveDuration, 1, Duration(mean="1 s")),
    ],
)
def test_words_become_numbers(kind: Any, written: Any, value: Any) -> None:
    """SI floats, whole bytes, durations."""
    assert read(kind, written) == value


@pytest.mark.parametrize(
    ("kind", "written", "says"),
    [
        (Time, 3, "the unit is missing"),
        (Time, "0 s", "above zero"),
        (Time, 0, "the unit is missing"),
        (Time, "-1 s", "above zero"),
        (TimeOrZero, "-1 s", "at least zero"),
        (TimeOrZero, 3, "the unit is missing"),
        (TimeOrZero, True, "expected: a duration"),
        (TimeOrZero, False, "expected: a duration"),
        (Rate, math.nan, "expected: a finite rate"),
        (Rate, math.inf, "expected: a finite rate"),
        (Rate, None, "expected: a rate"),
        (Rate, "5 Gbit", "did you mean 'Gbit/s'?"),
        (ByteCount, 1.5, "a whole number of bytes"),
        (ByteCount, math.inf, "a whole number of bytes"),
        (ByteCount, math.nan, "a whole number of bytes"),
        (ByteCount, -1, "from 0 to 2^62"),
        (ByteCount, 2**63, "from 0 to 2^62"),
        (ByteCount, "5 s", "'s' is no unit of size"),
        (PositiveByteCount, 0, "at least one byte"),
        (Duration, math.nan, "a finite duration"),
        (Duration, -1, "at least zero"),
        (Duration, {"mean": "1 s", "distribution": "uniform"}, "'constant' or 'exponential'"),
        (PositiveDuration, 0, "above zero"),
        (PositiveDuration, {"mean": "0 s", "distribution": "exponential"}, "above zero"),
    ],
)
def test_what_is_no_such_quantity_is_refused(kind: Any, written: Any, says: str) -> None:
    """A missing unit, a wrong sign, a zero where work must take time."""
    with pytest.raises(ValidationError) as raised:
        read(kind, written)
    assert says in str(raised.value)


def test_a_value_without_a_source_is_stated() -> None:
    """Scenarios need not justify what they ask for."""
    found = read(Sourced[Rate], "5 Mbit/s")
    assert (found.value, found.source, found.range) == (5e6, "stated", None)


def test_a_value_keeps_its_source_range_and_note() -> None:
    """All in the unit of the value."""
    written = {"value": "5 Mbit/s", "source": "assumed", "range": ["1 Mbit/s", "1 Gbit/s"]}
    found = read(Sourced[Rate], written | {"note": "rough"})
    assert (found.range, found.note) == ((1e6, 1e9), "rough")


@pytest.mark.parametrize(
    ("kind", "value", "outside"),
    [(Rate, "5 Mbit/s", ["6 Mbit/s", "7 Mbit/s"]), (Duration, "1 s", ["2 s", "3 s"])],
)
@pytest.mark.parametrize("ranged", [False, True])
def test_an_assumed_value_needs_a_range_around_it(
    kind: Any, value: str, outside: list[str], *, ranged: bool
) -> None:
    """What is assumed says between which bounds."""
    written = {"value": value, "source": "assumed"} | ({"range": outside} if ranged else {})
    with pytest.raises(ValidationError, match="range"):
        read(Sourced[kind], written)


def test_quantities_survive_being_written_and_read() -> None:
    """The very floats, so that a resolved scenario is the same scenario."""
    adapter = TypeAdapter(Sourced[Duration])
    found = adapter.validate_python({"mean": "0.1 ms", "distribution": "exponential"})
    assert adapter.validate_python(adapter.dump_python(found, mode="json")) == found
