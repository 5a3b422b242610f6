"""The table of a sweep: a row per point, a column per varied field and per metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from mobisim.report.arrow import column
from mobisim.report.results import replacing
from mobisim.report.summary import Summary
from mobisim.report.sweep_table import TABLE, Row

_TEXT = {"error"} | {
    name
    for name, field in Summary.model_fields.items()
    if str in (field.annotation, *get_args(field.annotation))
}


def write_table(folder: Path, rows: Sequence[Row], varied: Sequence[str]) -> None:
    """Write table.parquet and table.csv, each whole or not at all.

    The columns are the varied fields, then those of the rows in the order of the first that has
    them, the error last.
    """
    names = dict.fromkeys([*varied, *(name for row in rows for name in row if name != "error")])
    columns = {name: [row.get(name) for row in rows] for name in (*names, "error")}
    arrays = {n: column(v, str if n in _TEXT else float) for n, v in columns.items()}
    with replacing(folder / TABLE) as aside:
        pq.write_table(pa.table(arrays), aside, compression="zstd")
    with replacing(folder / "table.csv") as aside:
        aside.write_text(_csv(columns), encoding="utf-8")


def _csv(columns: Mapping[str, Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
