"""Knobs: what a plan may turn, as people write it, and the ladder of values that it may take."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from mobisim.cost.wire import CODEC_BITS
from mobisim.errors import InputError
from mobisim.planning.fields import Field, field_of
from mobisim.planning.targets import shown
from mobisim.scenario.quantities import is_number
from mobisim.scenario.schema import Scenario
from mobisim.sweeps.grid import as_text, parse_axis
from mobisim.units import RATE, Dimension, quantity

EXAMPLE = "min devices[0].link.uplink"
LINK_RATES = 1e4, 1e10  # bit/s, unless bounds are stated; as for the crossings of a comparison
MOST = 1_000_000  # a field whose own bound is above this has none that a search could use
EXACT = 1000  # up to which every whole number is looked at
LINEAR = 1000  # steps of a ladder that begins at or below zero
_FIND = re.compile(r"(min|max)\s+(\S+?)(?:\s+from\s+(.+?)\s+to\s+(.+))?")
_AMONG = re.compile(r"(\S+)\s+among\s+(.+)")

Wanted = Literal["min", "max", "among"]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Knob:
    """A field, and the values that it may take, from the most wanted to the easiest.

    Attributes:
        path: of the field.
        wanted: whether the least is wanted, the most, or the first of a list.
        ladder: the values; numbers are in SI units.
        dimension: of the values; None for plain numbers and names.
        open: the ladder's bounds are the field's own, too far apart to begin with its ends.
        weights: what each value counts in a cost, where it is no number.
    """

    path: str
    wanted: Wanted
    ladder: Sequence[Any]
    dimension: Dimension | None = None
    open: bool = False
    weights: tuple[float, ...] = ()

    def value(self, index: int) -> Any:
        """A value as a scenario takes it."""
        found = self.ladder[index]
        return found if self.dimension is None else self.dimension.format(found)

    def weight(self, index: int) -> float:
        """What a value counts in a cost."""
        return float(self.weights[index] if self.weights else self.ladder[index])

    def shown(self, index: int) -> str:
        """A value as people say it."""
        found = self.ladder[index]
        return shown(found, self.dimension) if is_number(found) and self.dimension else str(found)

    @property
    def range(self) -> str:
        """Between which values is looked, in words."""
        if self.wanted == "among":
            return ", ".join(map(str, self.ladder))
        ends = sorted((0, len(self.ladder) - 1), key=self.weight)
        return " to ".join(map(self.shown, ends))

    def between(self, low: int, high: int) -> Knob:
        """The same whole number within narrower bounds."""
        return replace(self, ladder=_whole(low, high, self.wanted), open=False)


def parse_find(text: str, scenario: Scenario) -> Knob:
    """The knob that `min PATH`, `max PATH … from A to B` or `PATH among A, B, …` names.

    Raises:
        InputError: no knob, a field that does not exist, or one without bounds.
    """
    where = f"--find {text}"
    if among := _AMONG.fullmatch(text.strip()):
        return _choice(among[1], among[2], scenario, where)
    match = _FIND.fullmatch(text.strip())
    if match is None:
        expected = f"min PATH, max PATH from A to B, or PATH among A, B; e.g. {EXAMPLE}"
        raise InputError("no knob", where=where, expected=expected)
    wanted: Wanted = "min" if match[1] == "min" else "max"
    found = field_of(scenario, match[2], where)
    if found.value in CODEC_BITS and found.name == "codec":
        return _codecs(match[2], wanted)
    if match[3] is not None:
        return _bounded(match[2], wanted, match[3], match[4], found, where)
    return _unbounded(match[2], wanted, found, where)


def _choice(path: str, values: str, scenario: Scenario, where: str) -> Knob:
    field_of(scenario, path, where)
    weights: list[float] = []
    names: list[Any] = []
    for number, part in enumerate(values.split(",")):
        name, _, weight = part.partition("=")
        try:
            weights.append(float(weight) if weight else float(number))
        except ValueError as error:
            raise InputError(
                "no weight", where=where, expected="NAME or NAME=NUMBER", got=part.strip()
            ) from error
        names.extend(parse_axis(f"{path}={name}").values)
    return Knob(path, "among", tuple(names), weights=tuple(weights))


def _codecs(path: str, wanted: Wanted) -> Knob:
    """All codecs by their bits."""
    sign = 1 if wanted == "min" else -1
    names = sorted(CODEC_BITS, key=lambda name: sign * CODEC_BITS[name])
    weights = tuple(float(CODEC_BITS[name]) for name in names)
    return Knob(path, wanted, tuple(names), weights=weights)


def _bounded(path: str, wanted: Wanted, low: str, high: str, found: Field, where: str) -> Knob:
    ends = parse_axis(f"{path}={low},{high}").values
    plain, dimension = zip(*(_plain(end, found, where) for end in ends), strict=True)
    if dimension[0] != dimension[1]:
        raise InputError("bounds of two sorts", where=where, got=f"{ends[0]} and {ends[1]}")
    first, last = sorted(plain)
    if first == last:
        raise InputError("nothing to find between equal bounds", where=where, got=as_text(ends[0]))
    if found.whole:
        return Knob(path, wanted, _whole(int(first), int(last), wanted))
    return Knob(path, wanted, _ladder(first, last, wanted), dimension[0])


def _plain(end: Any, found: Field, where: str) -> tuple[float, Dimension | None]:
    """A bound as a number in SI units, with its dimension."""
    if found.dimension is not None:
        try:
            return found.dimension.parse(as_text(end)), found.dimension
        except ValueError as error:
            raise InputError(str(error), where=where, got=as_text(end)) from error
    with_unit = quantity(end) if isinstance(end, str) else None
    if with_unit is not None and found.value is None:
        return with_unit
    if not is_number(end) or (found.whole and end != int(end)) or not math.isfinite(end):
        sort = "whole numbers" if found.whole else "numbers"
        raise InputError(f"expected: {sort} as bounds", where=where, got=as_text(end))
    return end, None


def _unbounded(path: str, wanted: Wanted, found: Field, where: str) -> Knob:
    """The knob between its field's own bounds.

    Raises:
        InputError: it has none that a search could use.
    """
    if found.dimension == RATE and found.name in ("uplink", "downlink"):
        return Knob(path, wanted, _ladder(*LINK_RATES, wanted), RATE)
    low, high = found.low, found.high
    if found.whole and low is not None and high is not None and high <= MOST:
        return Knob(path, wanted, _whole(int(low), int(high), wanted), open=True)
    example = _example(found)
    raise InputError(
        "this search has no bounds: the field has none of its own",
        where=where,
        hint=f"say between which values to look: {wanted} {path} from {example}",
    )


def _example(found: Field) -> str:
    if found.dimension is not None:
        return f"A to B, such as {found.dimension.example}"
    if isinstance(found.value, str):
        return f"A to B; of names: {found.name} among A, B"
    return "1 to 64" if found.whole else "A to B"


def _whole(low: int, high: int, wanted: Wanted) -> Sequence[int]:
    """All whole numbers between two bounds up to a thousand, above that those of three figures."""
    numbers = {*range(low, min(high, EXACT) + 1), high}
    if high > EXACT:
        numbers.update(int(number) for number in _three_figures(max(low, EXACT), high))
    return _ordered(numbers, wanted)


def _ladder(low: float, high: float, wanted: Wanted) -> Sequence[float]:
    """All numbers of three figures between two bounds, and these; from the wanted end on."""
    if low > 0:
        return _ordered(_three_figures(low, high), wanted)
    return _ordered({low + (high - low) * step / LINEAR for step in range(LINEAR + 1)}, wanted)


def _three_figures(low: float, high: float) -> set[float]:
    decades = range(math.floor(math.log10(low)) - 2, math.floor(math.log10(high)) - 1)
    numbers = (float(f"{figures}e{ten}") for ten in decades for figures in range(100, 1000))
    return {low, high, *(number for number in numbers if low < number < high)}


def _ordered(numbers: set[Number], wanted: Wanted) -> tuple[Number, ...]:
    return tuple(sorted(numbers, reverse=wanted == "max"))
