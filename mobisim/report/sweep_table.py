"""A finished sweep: its table row by row, read back, and shown in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pyarrow.parquet as pq
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mobisim.errors import InputError
from mobisim.report.results import SUMMARY, read_result
from mobisim.report.slices import role_of
from mobisim.report.summary import Summary
from mobisim.report.wording import count
from mobisim.units import human_rate, human_size, human_time

MANIFEST, TABLE, POINTS = "sweep.json", "table.parquet", "points"
WIDTH, MAX_ROWS = 96, 40
RESULT = "result"

Row = dict[str, Any]

_HUMAN: dict[str | None, Callable[[float], str]] = {
    "bit/s": human_rate,
    "s": human_time,
    "B": human_size,
}


_LEFT_OUT = ("schema_version", "provenance_counts")  # the same for all points, or no number

_NESTED = {
    name
    for name, field in Summary.model_fields.items()
    if any(
        get_origin(sort) is dict or hasattr(sort, "model_fields")
        for sort in get_args(field.annotation)
    )
}


def metrics(summary: Mapping[str, Any]) -> Row:
    """The columns of a summary: nested numbers by their path, `blame_s.device`."""
    return dict(_flat({k: v for k, v in summary.items() if k not in _LEFT_OUT}))


def _flat(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if name == "utilisation":
            yield from _busiest(value)
        elif value is None and name in _NESTED:
            continue  # its numbers have columns only where there are any
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{below}", found) for below, found in _flat(value))
        elif isinstance(value, list | tuple):
            yield from _listed(name, value)
        else:
            yield name, value


def _listed(name: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Words in one column, records in columns of their own: `metric_of_groups[0].mean`."""
    if not values or not isinstance(values[0], Mapping):
        yield name, "; ".join(map(str, values))
        return
    for number, value in enumerate(values):
        yield from ((f"{name}[{number}].{below}", found) for below, found in _flat(value))


def _busiest(utilisation: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The utilisation of the busiest actor of each role."""
    for part in ("device", "uplink", "downlink", "server"):
        shares = [share for actor, share in utilisation.items() if role_of(actor) == part]
        if shares:
            yield f"utilisation.{part}", max(shares)


@dataclass(frozen=True)
class Varied:
    """A varied field, as people read it."""

    path: str
    name: str
    unit: str | None
    values: tuple[Any, ...]

    def shown(self, value: Any) -> str:
        """A value as people say it."""
        if isinstance(value, str) or value is None:
            return str(value or "")
        if self.unit in _HUMAN:
            return _HUMAN[self.unit](value)
        return f"{value:g} {self.unit or ''}".strip()


@dataclass(frozen=True)
class Sweep:
    """What a sweep found: a row per point, by the columns of its table and `place`, its folder."""

    name: str
    varied: tuple[Varied, ...]
    num_trajectories: int
    rows: tuple[Row, ...]

    @property
    def about(self) -> Row:
        """What pictures say of the whole, from a point that came to something."""
        return next(iter(self.done), {})

    @property
    def done(self) -> tuple[Row, ...]:
        """The rows of the points that came to a makespan."""
        return tuple(row for row in self.rows if row.get("makespan_s") is not None)


def read_sweep(path: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        InputError: there is none, or it is not finished.
    """
    found = read_result(path, MANIFEST)
    try:
        rows = pq.read_table(path / TABLE).to_pylist()
    except OSError as error:
        raise InputError(
            "this sweep is not finished", where=str(path), hint=f"go on: {found['command']}"
        ) from error
    paths = [axis["path"] for axis in found["axes"]]
    names = [name.rsplit(".", 1)[-1] for name in paths]
    varied = (
        Varied(
            axis["path"],
            name if names.count(name) == 1 else axis["path"],
            axis["unit"],
            tuple(axis["values"]),
        )
        for axis, name in zip(found["axes"], names, strict=True)
    )
    # Where no point could be looked at, none has a digest.
    places = [row | {"place": path / POINTS / str(row.get("digest"))} for row in rows]
    return Sweep(found["name"], tuple(varied), found["num_trajectories"], tuple(places))


def read_all(paths: Sequence[Path]) -> Sweep:
    """Sweeps and single runs as one: where there are several, `result` tells them apart.

    Raises:
        InputError: a folder holds neither a run nor a finished sweep.
    """
    found = [_read(path) for path in paths]
    if len(found) == 1:
        return found[0]
    names = [one.name for one in found]
    labels = [
        n if names.count(n) == 1 else f"{n} {p.name[-6:]}"
        for n, p in zip(names, paths, strict=True)
    ]
    varied = {field.path: field for one in found for field in one.varied}
    rows = [
        row | {RESULT: label} for one, label in zip(found, labels, strict=True) for row in one.rows
    ]
    which = Varied(RESULT, RESULT, None, tuple(labels))
    return Sweep(" and ".join(dict.fromkeys(names)), (which, *varied.values()), 0, tuple(rows))


def _read(path: Path) -> Sweep:
    if (path / MANIFEST).exists():
        return read_sweep(path)
    summary = read_result(path, SUMMARY)
    return Sweep(summary["name"], (), 0, (metrics(summary) | {"place": path, "error": None},))


def print_sweep(path: Path, console: Console) -> None:
    """Print the table of a sweep, as far as it goes on a page, and where the rest is."""
    found = read_sweep(path)
    shown = found.rows[:MAX_ROWS]
    left = len(found.rows) - len(shown)
    notes = [f"… and {count(left, 'point')} more"] if left else []
    notes += [_sizes(found), f"{path}: table.csv, table.parquet, points/"]
    page = Group(Text(), _table(found, shown), Text(), *map(Text, notes))
    console.print(page, width=min(WIDTH, console.width), highlight=False)


def _sizes(found: Sweep) -> str:
    failed = sum(row["error"] is not None for row in found.rows)
    trained = found.num_trajectories
    parts = [count(len(found.rows), "point")]
    if trained:
        parts.append(f"{trained} {'trajectory' if trained == 1 else 'trajectories'} trained")
    return ", ".join([*parts, *([f"{failed} failed"] if failed else [])])


def _table(found: Sweep, rows: Sequence[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = {
        heading: cell
        for heading, (name, cell) in _COLUMNS.items()
        if any(row.get(name) is not None for row in rows)
    }
    for varied in found.varied:
        table.add_column(varied.name, justify="right" if varied.unit else "left", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="left" if heading in _WORDS else "right")
    for row in rows:
        values = (varied.shown(row[varied.path]) for varied in found.varied)
        table.add_row(*values, *(cell(row) for cell in columns.values()))
    return table


def _time(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(name) is None else human_time(row[name])


def _reached(row: Row) -> str:
    if row.get("target.metric") is None or row["makespan_s"] is None:
        return ""
    at = row["time_to_target_s"]
    return "not met" if at is None else human_time(at)


def _quality(row: Row) -> str:
    value = row.get("final_metric")
    return "" if value is None else f"{row['metric_name'].replace('_', ' ')} {value:.3g}"


def _word(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name) or "")


# Heading, the column that must have a value somewhere, and what is shown.
_COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "makespan": ("makespan_s", _time("makespan_s")),
    "to target": ("final_metric", _reached),
    "at the end": ("final_metric", _quality),
    "bottleneck": ("bottleneck", _word("bottleneck")),
    "why not": ("error", _word("error")),
}
_WORDS = ("bottleneck", "why not")
