from __future__ import annotations

import math

import pytest

from mobisim import units
from mobisim.units import (
    BANDWIDTH,
    COMPUTE,
    DIMENSIONS,
    ENERGY,
    POWER,
    POWER_PER_RATE,
    RATE,
    SIZE,
    TIME,
    Dimension,
    human_rate,
    human_size,
    human_time,
)


@pytest.mark.parametrize(
    ("dimension", "text", "value"),
    [
        (TIME, "10 ms", 0.01),
        (TIME, "2 h", 7200.0),
        (TIME, "1.5 min", 90.0),
        (TIME, " 3  d ", 259200.0),
        (TIME, "7us", 7e-6),
        (RATE, "5 Mbit/s", 5e6),
        (RATE, "1e3 bit/s", 1000.0),
        (SIZE, "8 GiB", 8 * 2.0**30),
        (SIZE, "8 GB", 8e9),
        (BANDWIDTH, "51.2 GB/s", 51.2e9),
        (COMPUTE, ".9 Tflop/s", 0.9e12),
        (POWER, "710 mW", 0.71),
        (ENERGY, "18 Wh", 64_800.0),
        (POWER_PER_RATE, "77 mW/(Mbit/s)", 77e-9),
    ],
)
def test_a_quantity_is_read_into_si(dimension: Dimension, text: str, value: float) -> None:
    """Number and unit give the SI value, with or without space between them."""
    assert dimension.parse(text) == pytest.approx(value, rel=1e-15)
    assert units.quantity(text) == (dimension.parse(text), dimension)  # by its unit alone


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda d: d.name)
def test_the_example_of_each_dimension_can_be_read(dimension: Dimension) -> None:
    """What error messages hold up as an example is one."""
    assert dimension.parse(dimension.example) > 0


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda d: d.name)
@pytest.mark.parametrize("value", [0.0, 1 / 3, 5e6, 1e-300, 1.7976931348623157e308])
def test_what_is_written_is_read_back_to_the_last_bit(dimension: Dimension, value: float) -> None:
    """Resolved scenarios hold the very floats of the run."""
    assert dimension.parse(dimension.format(value)) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", "the unit is missing"),
        ("5 Mbit", "did you mean 'Mbit/s'"),
        ("5 MB/s", "'MB/s' is no unit of rate"),
        ("5 s", "'s' is no unit of rate"),
        ("fast", "expected: a rate such as '5 Mbit/s'"),
        ("nan Mbit/s", "expected: a rate"),
        ("inf bit/s", "expected: a rate"),
        ("", "expected: a rate"),
        ("5 5 Mbit/s", "'5 Mbit/s' is no unit"),
        ("\u0665 Mbit/s", "expected: a rate"),
        ("1e999 bit/s", "expected: a finite rate"),
    ],
)
def test_what_is_no_quantity_is_refused(text: str, says: str) -> None:
    """The message says what is wrong with the text and shows an example."""
    with pytest.raises(ValueError, match="expected") as raised:
        RATE.parse(text)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (2.5e-6, "2.5 us"),
        (0.0123, "12.3 ms"),
        (12.0, "12 s"),
        (180.0, "3 min"),
        (7300.0, "2.03 h"),
        (864000.0, "10 d"),
    ],
)
def test_durations_are_said_in_the_unit_that_fits(seconds: float, text: str) -> None:
    """Three figures, whatever the magnitude."""
    assert human_time(seconds) == text


def test_sizes_and_rates_are_said_with_decimal_prefixes() -> None:
    """As link rates and packet counts are."""
    said = [human_size(0), human_size(1500), human_size(8.14e9), human_rate(5e6)]
    assert said == ["0 B", "1.5 kB", "8.14 GB", "5 Mbit/s"]


def test_prefixes_are_exact() -> None:
    """A kibibyte has 1024 bytes, a kilobyte 1000."""
    assert (units.BINARY["Ki"], units.DECIMAL["k"]) == (1024, 1000)
    assert math.log2(units.BINARY["Ti"]) == 40
