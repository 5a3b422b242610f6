"""The table of a sweep: a row per point, a column per varied field and per metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq

from mobisim.report.results import replacing
from mobisim.report.slices import role_of
from mobisim.report.summary import Summary

Row = dict[str, Any]

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
            yield name, "; ".join(map(str, value))
        else:
            yield name, value


def _busiest(utilisation: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The utilisation of the busiest actor of each role."""
    for part in ("device", "uplink", "downlink", "server"):
        shares = [share for actor, share in utilisation.items() if role_of(actor) == part]
        if shares:
            yield f"utilisation.{part}", max(shares)


def write_table(folder: Path, rows: Sequence[Row], varied: Sequence[str]) -> None:
    """Write table.parquet and table.csv, each whole or not at all.

    The columns are the varied fields, then those of the rows in the order of the first that has
    them, the error last.
    """
    names = dict.fromkeys([*varied, *(name for row in rows for name in row if name != "error")])
    columns = {name: [row.get(name) for row in rows] for name in (*names, "error")}
    arrays = {name: _array(values) for name, values in columns.items()}
    with replacing(folder / "table.parquet") as aside:
        pq.write_table(pa.table(arrays), aside, compression="zstd")
    with replacing(folder / "table.csv") as aside:
        aside.write_text(_csv(columns), encoding="utf-8")


def _array(values: list[Any]) -> Any:
    """An arrow array; whole numbers among others are floats, and nothing at all is text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        return pa.array(values, pa.string())
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    return pa.array(values)


def _csv(columns: Mapping[str, Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
