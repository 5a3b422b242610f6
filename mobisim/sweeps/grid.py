"""The points of a sweep: every combination of the varied fields, or their values in step."""

from __future__ import annotations

import copy
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

from mobisim.errors import InputError
from mobisim.scenario.document import Document, parse_value
from mobisim.scenario.load import override, resolve
from mobisim.scenario.quantities import is_number
from mobisim.scenario.schema import Scenario
from mobisim.units import quantity

MAX_POINTS = 100_000
_WITH_UNIT = re.compile(r"[-+.0-9eE]+\s*(\S.*)")


@dataclass(frozen=True)
class Axis:
    """A varied field and the values that it takes."""

    path: str
    values: tuple[Any, ...]

    @property
    def unit(self) -> str | None:
        """The SI unit of all values; None where they are not quantities of one sort."""
        found = [quantity(value) for value in self.values]
        units = {pair[1].si if pair else None for pair in found}
        return units.pop() if len(units) == 1 else None

    def plain(self, value: Any) -> Any:
        """A value as the table holds it: a number, in SI units, where all are, else text."""
        found = quantity(value)
        if self.unit is not None and found is not None:
            return found[0]
        return value if all(map(is_number, self.values)) else as_text(value)


def as_text(value: Any) -> str:
    """A value as people would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Point:
    """One combination of values, and the scenario that it gives or why it gives none."""

    values: tuple[Any, ...]
    scenario: Scenario | None
    error: InputError | None = None


def parse_axis(text: str) -> Axis:
    """The axis that `PATH=VALUE,VALUE,… UNIT` names; the unit holds for all bare numbers.

    Raises:
        InputError: no path, or values that cannot be read.
    """
    path, _, values = text.partition("=")
    where = f"--vary {text}"
    if not path.strip() or not values.strip():
        example = "PATH=VALUE,VALUE,…, e.g. wire.codec=fp16,nf4"
        raise InputError("nothing to vary", where=where, expected=example)
    found = parse_value(f"[{values}]", where)
    return Axis(path.strip(), tuple(_with_unit(found)))


def _with_unit(values: list[Any]) -> list[Any]:
    last = _WITH_UNIT.fullmatch(values[-1]) if isinstance(values[-1], str) else None
    if last is None or not all(map(is_number, values[:-1])):
        return values
    return [*(f"{value!r} {last[1]}" for value in values[:-1]), values[-1]]


def seeds(count: int, document: Document) -> Axis:
    """The axis of so many seeds, from the scenario's own on."""
    first = document.data.get("seed", 0)
    return Axis("seed", tuple(range(first, first + count)) if isinstance(first, int) else (first,))


def points(
    document: Document, lists: Sequence[Sequence[Axis]], *, strict: bool = True
) -> list[Point]:
    """The points of a grid, the last list changing fastest; axes of one list go in step.

    A combination that gives no scenario is a point with an error; with `strict`, a value that no
    combination allows is a slip of the pen.

    Raises:
        InputError: a path twice, lists of unequal length, or such a value.
    """
    axes = [axis for together in lists for axis in together]
    _check(axes, lists)
    rows = product(*(zip(*(a.values for a in together), strict=True) for together in lists))
    found = [_point(document, axes, tuple(chain.from_iterable(row))) for row in rows]
    for error in _hopeless(found) if strict else ():
        raise error
    return found


def _check(axes: Sequence[Axis], lists: Sequence[Sequence[Axis]]) -> None:
    paths = [axis.path for axis in axes]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError("this field is varied twice", where=f"--vary {path}")
    for together in lists:
        if len({len(axis.values) for axis in together}) > 1:
            raise InputError(
                "lists of unequal length",
                where="--zip",
                expected="as many values of each field",
                got=", ".join(f"{len(axis.values)} of {axis.path}" for axis in together),
            )
    total = math.prod(len(together[0].values) for together in lists)
    if total > MAX_POINTS:
        raise InputError(
            "a larger grid than any sweep",
            where="--vary",
            expected=f"at most {MAX_POINTS:,} points",
            got=f"{total:,}",
        )


def _point(document: Document, axes: Sequence[Axis], values: tuple[Any, ...]) -> Point:
    varied = copy.deepcopy(document)
    try:
        for axis, value in zip(axes, values, strict=True):
            override(varied, axis.path, value, f"--vary {axis.path}={as_text(value)}")
        return Point(values, resolve(varied))
    except InputError as error:
        return Point(values, None, error)


def _hopeless(found: Sequence[Point]) -> Iterator[InputError]:
    """The errors of values that fail in every combination."""
    errors: dict[tuple[int, str], list[InputError | None]] = defaultdict(list)
    for point in found:
        for number, value in enumerate(point.values):
            errors[number, as_text(value)].append(point.error)
    for seen in errors.values():
        if seen[0] is not None and all(seen):
            yield seen[0]
