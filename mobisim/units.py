"""Words at the edge, SI inside: the one parser of quantities with units."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from mobisim.errors import nearest

BITS_PER_BYTE = 8
DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
SMALL = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S.*)?", re.ASCII)


@dataclass(frozen=True)
class Dimension:
    """A sort of quantity: its SI unit, the units that people write, and an example."""

    name: str
    si: str
    example: str
    units: dict[str, float] = field(hash=False)

    def parse(self, text: str) -> float:
        """The SI value of `text`.

        Raises:
            ValueError: no number, no unit, or a unit of another dimension.
        """
        match = _QUANTITY.fullmatch(text)
        if match is None:
            raise ValueError(f"expected: a {self.name} such as '{self.example}'")
        number, unit = float(match[1]), (match[2] or "").strip()
        if unit not in self.units:
            raise ValueError(self._unit_problem(unit))
        value = number * self.units[unit]
        if not math.isfinite(value):
            raise ValueError(f"expected: a finite {self.name}")
        return value

    def _unit_problem(self, unit: str) -> str:
        if not unit:
            return f"the unit is missing; expected: a {self.name} such as '{self.example}'"
        guess = nearest(unit, self.units)
        hint = f"; did you mean {guess!r}?" if guess else ""
        return f"{unit!r} is no unit of {self.name}{hint}; expected for example '{self.example}'"

    def format(self, value: float) -> str:
        """Text that `parse` reads back to the very same float."""
        return f"{value!r} {self.si}"


def _scaled(prefixes: dict[str, float], unit: str) -> dict[str, float]:
    return {prefix + unit: factor for prefix, factor in prefixes.items()}


TIME = Dimension(
    "duration", "s", "10 ms", _scaled(SMALL, "s") | {"min": 60.0, "h": 3600.0, "d": 86400.0}
)
RATE = Dimension("rate", "bit/s", "5 Mbit/s", _scaled(DECIMAL, "bit/s"))
SIZE = Dimension("size", "B", "8 GiB", _scaled(DECIMAL | BINARY, "B"))
BANDWIDTH = Dimension("memory bandwidth", "B/s", "51.2 GB/s", _scaled(DECIMAL | BINARY, "B/s"))
COMPUTE = Dimension("compute rate", "flop/s", "0.9 Tflop/s", _scaled(DECIMAL, "flop/s"))
POWER = Dimension("power", "W", "15 W", {"W": 1.0, "mW": 1e-3, "kW": 1e3})
J_PER_WH = 3600.0
ENERGY = Dimension(
    "energy",
    "J",
    "18 Wh",
    {"J": 1.0, "kJ": 1e3, "mWh": J_PER_WH / 1e3, "Wh": J_PER_WH, "kWh": J_PER_WH * 1e3},
)
POWER_PER_RATE = Dimension(
    "power per rate",
    "W/(bit/s)",
    "77 mW/(Mbit/s)",
    {"W/(bit/s)": 1.0, "mW/(Mbit/s)": 1e-9, "W/(Mbit/s)": 1e-6},
)

DIMENSIONS = (TIME, RATE, SIZE, BANDWIDTH, COMPUTE, POWER, ENERGY, POWER_PER_RATE)


def quantity(value: object) -> tuple[float, Dimension] | None:
    """The SI value and the dimension of a text with a unit; None where it is no such text."""
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    unit = (match[2] or "").strip() if match else ""
    for dimension in DIMENSIONS:
        if unit in dimension.units:
            return float(match[1]) * dimension.units[unit], dimension  # type: ignore[index]
    return None


def human_time(seconds: float) -> str:
    """A duration as people say it: three figures, the unit that fits."""
    for limit, unit, factor in (
        (1e-3, "us", 1e6),
        (1.0, "ms", 1e3),
        (120.0, "s", 1.0),
        (7200.0, "min", 1 / 60),
        (172800.0, "h", 1 / 3600),
    ):
        if abs(seconds) < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"


def human_size(num_bytes: float) -> str:
    """A size as people say it, decimal prefixes."""
    return _human(num_bytes, "B")


def human_energy(joules: float) -> str:
    """An energy as people say it."""
    return _human(joules, "J")


def human_flop(flop: float) -> str:
    """Floating-point operations as people say them."""
    return _human(flop, "FLOP")


def human_rate(bits_per_s: float) -> str:
    """A rate as people say it."""
    return _human(bits_per_s, "bit/s")


def _human(value: float, unit: str) -> str:
    for prefix, factor in reversed(DECIMAL.items()):
        if float(f"{abs(value) / factor:.3g}") >= 1 or not prefix:
            return f"{value / factor:.3g} {prefix}{unit}"
    raise AssertionError("unreachable: the empty prefix always fits")
