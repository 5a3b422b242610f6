"""The published tables: schemas of spans.parquet and steps.parquet, and their writers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mobisim.report.arrow import array, numbers, words
from mobisim.span import DTYPES, KINDS, NONE, STEP, SpanColumns

_NAME = pa.dictionary(pa.int32(), pa.string())

SPANS = pa.schema(
    [
        pa.field("kind", _NAME, nullable=False),
        pa.field("actor", _NAME, nullable=False),
        pa.field("start", pa.float64(), nullable=False),
        pa.field("end", pa.float64(), nullable=False),
        pa.field("device", pa.int32()),
        pa.field("batch", pa.int64()),
        pa.field("tap", pa.int16()),
        pa.field("num_bytes", pa.int64()),
        pa.field("version_read", pa.int64()),
        pa.field("version_written", pa.int64()),
        pa.field("cut", pa.bool_(), nullable=False),
        pa.field("energy_j", pa.float64()),
    ]
)

STEPS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("end", pa.float64(), nullable=False),
        pa.field("device", pa.int32()),
        pa.field("batch", pa.int64(), nullable=False),
        pa.field("epoch", pa.int32()),
        pa.field("version_read", pa.int64(), nullable=False),
        pa.field("version_written", pa.int64(), nullable=False),
        pa.field("staleness", pa.int64(), nullable=False),
        pa.field("num_samples", pa.int64()),
        pa.field("loss", pa.float64()),
        pa.field("metric", pa.float64()),
    ]
)


class _TableWriter:
    """A parquet file that grows by row groups."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def _write(self, arrays: list[Any]) -> None:
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))


class SpanWriter(_TableWriter):
    """Writes spans.parquet, a row group per block."""

    def __init__(self, path: Path, actors: tuple[str, ...]) -> None:
        super().__init__(path, SPANS)
        self._names = (words(KINDS), words(actors))

    def add(self, columns: SpanColumns, energy_j: NDArray[np.float64] | None = None) -> None:
        """Append a block of spans; `energy_j` holds one value per span, NaN for none."""
        self._write(_span_arrays(columns, self._names, energy_j))


def span_table(
    columns: SpanColumns, actors: Sequence[str], energy_j: NDArray[np.float64] | None = None
) -> pa.Table:
    """The table that spans.parquet would hold; `energy_j` has a value per span, NaN for none."""
    arrays = _span_arrays(columns, (words(KINDS), words(actors)), energy_j)
    return pa.Table.from_arrays(arrays, schema=SPANS)


def _span_arrays(
    columns: SpanColumns, names: tuple[Any, Any], energy_j: NDArray[np.float64] | None
) -> list[Any]:
    kinds, actors = names
    plain = [getattr(columns, field.name) for field in fields(columns)[2:]]
    return [
        pa.DictionaryArray.from_arrays(array(columns.kind.astype(np.int32)), kinds),
        pa.DictionaryArray.from_arrays(array(columns.actor), actors),
        *(array(column, column != NONE) for column in plain[:-1]),
        array(columns.cut),
        _or_nulls(energy_j, len(columns), np.float64),
    ]


class StepWriter(_TableWriter):
    """Writes steps.parquet: one row per step, in the order of versions."""

    def __init__(self, path: Path, batches_per_epoch: NDArray[np.int64] | None) -> None:
        """Write to `path`; `batches_per_epoch` has an entry per device, None without epochs."""
        super().__init__(path, STEPS)
        self._batches_per_epoch = batches_per_epoch

    def add(
        self,
        columns: SpanColumns,
        num_samples: NDArray[np.int64] | None = None,
        loss: NDArray[np.float64] | None = None,
        metric: NDArray[np.float64] | None = None,
    ) -> None:
        """Append the steps among these spans; the arrays hold one value per step, NaN for none."""
        steps = columns[(columns.kind == STEP) & ~columns.cut]
        if not len(steps):
            return
        epoch, owned = np.zeros(len(steps), np.int32), np.zeros(len(steps), np.bool_)
        if self._batches_per_epoch is not None:
            owned = steps.device != NONE  # else the server learns on from what it has kept
            epoch = (steps.batch // self._batches_per_epoch[steps.device]).astype(np.int32)
        self._write(
            [
                array(steps.version_written),
                array(steps.end),
                array(steps.device, steps.device != NONE),
                array(steps.batch),
                array(epoch, owned),
                array(steps.version_read),
                array(steps.version_written),
                array(steps.version_written - 1 - steps.version_read),
                _or_nulls(num_samples, len(steps), np.int64),
                _or_nulls(loss, len(steps), np.float64),
                _or_nulls(metric, len(steps), np.float64),
            ]
        )


def _or_nulls(values: NDArray[Any] | None, count: int, dtype: type[np.generic]) -> Any:
    if values is None:
        return array(np.zeros(count, dtype), np.zeros(count, np.bool_))
    values = values.astype(dtype)
    return array(values, ~np.isnan(values))


def read_spans(path: Path) -> Iterator[SpanColumns]:
    """The blocks of a written spans.parquet."""
    file = pq.ParquetFile(path)
    for index in range(file.num_row_groups):
        yield _columns(file.read_row_group(index))


def _columns(table: pa.Table) -> SpanColumns:
    columns = (table.column(field.name).combine_chunks() for field in fields(SpanColumns))
    return SpanColumns(*(numbers(c, t) for c, t in zip(columns, DTYPES, strict=True)))
