"""Series: the rows of a sweep as the lines of a picture, and how lines tell themselves apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from mobisim.report.sweep_table import Row, Sweep, Varied

SEED = "seed"
RATE_UNIT = "bit/s"

# Lines differ by lightness, dashes and marks, so that pictures read in grey, too.
_COLOURS = ("#12456e", "#e58606", "#12654f", "#a3330b", "#5b9bd5", "#8c8c8c", "#7a5195", "#5fb597")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)), (0, (3, 1.2)),
                            (0, (6, 2, 1, 2, 1, 2)), (0, (9, 3)), (0, (2, 3)))  # fmt: skip
_MARKS = "os^DvPX*"
_DARK, _LIGHT = "#08264a", "#8fc1e8"


@dataclass(frozen=True)
class Style:
    """How a line is drawn."""

    colour: str
    dashes: Any
    mark: str


@dataclass(frozen=True)
class Series:
    """Rows that belong to one line, and what they have in common."""

    label: str
    rows: tuple[Row, ...]


def bandwidth(sweep: Sweep) -> Varied | None:
    """The varied field that is a rate with more than one value; an uplink before others."""
    rates = [field for field in sweep.varied if field.unit == RATE_UNIT and len(field.values) > 1]
    return next((f for f in rates if f.name == "uplink"), rates[0] if rates else None)


def ordered(sweep: Sweep) -> Varied | None:
    """The varied field whose values are lines of one picture: a rate, a number, or the first."""
    fields = [f for f in sweep.varied if f.path != SEED]
    numbers = [f for f in fields if all(isinstance(v, int | float) for v in f.values)]
    return bandwidth(sweep) or next(iter(numbers + fields), None)


def by(rows: Iterable[Row], fields: Sequence[Varied]) -> list[Series]:
    """The rows grouped by their values of these fields, in the order of the table."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(f.path) for f in fields), []).append(row)
    return [Series(label(fields, rows[0]), tuple(rows)) for rows in groups.values()]


def label(fields: Sequence[Varied], row: Row) -> str:
    """The values of a row that tell it from others; a bare number says what it counts."""
    return ", ".join(_shown(field, row.get(field.path)) for field in fields)


def _shown(field: Varied, value: Any) -> str:
    text = field.shown(value)
    return text if field.unit or isinstance(value, str) else f"{field.name} {text}"


def others(sweep: Sweep, *fields: Varied | None) -> list[Varied]:
    """The varied fields but these and the seed."""
    paths = {SEED, *(field.path for field in fields if field is not None)}
    return [field for field in sweep.varied if field.path not in paths]


def mean(rows: Iterable[Row], column: str) -> float | None:
    """The mean of a column over rows; None where one of them has no value."""
    values = [row.get(column) for row in rows]
    return fmean(values) if values and None not in values else None  # type: ignore[arg-type]  # none is None


def style(number: int) -> Style:
    """The style of one line among equals; once the colours are through they get other dashes."""
    turn, pick = divmod(number, len(_COLOURS))
    other = (pick + turn) % len(_COLOURS)
    return Style(_COLOURS[pick], _DASHES[other], _MARKS[other])


def graded(number: int, total: int) -> Style:
    """The style of one line of an order, from dark to light."""
    share = number / max(total - 1, 1)
    (r, g, b), (R, G, B) = to_rgb(_DARK), to_rgb(_LIGHT)
    colour = to_hex((r + share * (R - r), g + share * (G - g), b + share * (B - b)))
    return Style(colour, _DASHES[number % len(_DASHES)], _MARKS[number % len(_MARKS)])


def unnested(row: Row) -> Row:
    """A row with the nested field that wording looks at."""
    pair = {"trained": row.get("stand_in.trained"), "timed": row.get("stand_in.timed")}
    return row | {"stand_in": pair if pair["trained"] else None}
