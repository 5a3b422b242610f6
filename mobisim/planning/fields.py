"""Fields of a scenario by their path: their value, sort and bounds, as the schema has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mobisim.errors import InputError, unknown_name
from mobisim.scenario.load import parse_path
from mobisim.scenario.quantities import Duration, Quantity, Sourced
from mobisim.scenario.schema import Scenario
from mobisim.units import Dimension


@dataclass(frozen=True)
class Field:
    """A field of a scenario.

    Attributes:
        name: the last word of its path.
        value: as it is now, in SI units.
        dimension: of a quantity with a unit.
        whole: whether it is a whole number.
        low: the least that the schema allows, if it says so.
        high: the most.
    """

    name: str
    value: Any
    dimension: Dimension | None
    whole: bool
    low: float | None
    high: float | None


def field_of(scenario: Scenario, path: str, where: str) -> Field:
    """The field at a path, `[*]` standing for the first of a list.

    Raises:
        InputError: there is none; names the nearest.
    """
    at: Any = scenario
    info: FieldInfo | None = None
    name = path
    for part in parse_path(path, where):
        at = at.value if isinstance(at, Sourced) and part != "value" else at
        if not isinstance(part, str) or part == "*":
            at = _item(at, part if isinstance(part, int) else 0, path, where)
            continue
        name = part
        if isinstance(at, dict):
            if part not in at:
                raise unknown_name("key", part, at, where=where)
            at = at[part]
            continue
        if not isinstance(at, BaseModel):
            raise InputError(f"nothing lies below {name}", where=where)
        fields = type(at).model_fields
        if part not in fields:
            raise unknown_name("key", part, fields, where=where)
        info, at = fields[part], getattr(at, part)
    found = at.value if isinstance(at, Sourced) else at
    if isinstance(found, Duration) and found.distribution != "constant":
        raise InputError("this duration is random", where=where, hint=f"turn {path}.mean")
    return _field(name, at, info)


def _item(at: Any, index: int, path: str, where: str) -> Any:
    if not isinstance(at, tuple):
        raise InputError("no list here", where=where, got=path)
    if index >= len(at):
        raise InputError("no such item", where=where, expected=f"an index below {len(at)}")
    return at[index]


def _field(name: str, value: Any, info: FieldInfo | None) -> Field:
    if isinstance(value, Sourced):
        info, value = type(value).model_fields["value"], value.value
    notes = list(_notes(info)) if info is not None else []
    if isinstance(value, Duration):
        notes, value = list(_notes(Duration.model_fields["mean"])), value.mean
    dimension = next((note.dimension for note in notes if isinstance(note, Quantity)), None)
    whole = isinstance(value, int) and not isinstance(value, bool)
    whole = whole or (value is None and info is not None and _is_whole(info.annotation))
    low = next(
        (limit for note in notes if (limit := _limit(note, "ge", "gt", 1)) is not None), None
    )
    high = next(
        (limit for note in notes if (limit := _limit(note, "le", "lt", -1)) is not None), None
    )
    return Field(name, value, dimension, whole, low, high)


def _limit(note: Any, closed: str, beyond: str, step: int) -> float | None:
    """A bound that a note of the schema states; beyond which, of whole numbers, one step in."""
    found = getattr(note, closed, None)
    if found is not None:
        return float(found)
    found = getattr(note, beyond, None)
    return None if found is None else float(found) + step


def _is_whole(annotation: Any) -> bool:
    return annotation is int or any(map(_is_whole, get_args(annotation)))


def _notes(info: FieldInfo) -> Iterator[Any]:
    """What the schema notes of a field, wherever in its annotation."""
    yield from info.metadata
    yield from _below(info.annotation)


def _below(annotation: Any) -> Iterator[Any]:
    for note in getattr(annotation, "__metadata__", ()):
        yield from _notes(note) if isinstance(note, FieldInfo) else (note,)
    for below in get_args(annotation):
        yield from _below(below)
