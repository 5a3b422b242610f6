"""The published tables: schemas of spans.parquet and steps.parquet, and their writers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mobisim.span import KINDS, NONE, STEP, SpanColumns

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
    ]
)

STEPS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("end", pa.float64(), nullable=False),
        pa.field("device", pa.int32(), nullable=False),
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
        self._kinds, self._actors = pa.array(KINDS), pa.array(actors)

    def add(self, columns: SpanColumns) -> None:
        """Append a block of spans."""
        plain = [_nullable(getattr(columns, f.name)) for f in fields(columns)[4:-1]]
        kind = columns.kind.astype(np.int32)
        self._write(
            [
                pa.DictionaryArray.from_arrays(pa.array(kind), self._kinds),
                pa.DictionaryArray.from_arrays(pa.array(columns.actor), self._actors),
                pa.array(columns.start),
                pa.array(columns.end),
                *plain,
                pa.array(columns.cut),
            ]
        )


def _nullable(column: NDArray[Any]) -> Any:
    return pa.array(column, mask=column == NONE)


class StepWriter(_TableWriter):
    """Writes steps.parquet: one row per step, in the order of versions."""

    def __init__(self, path: Path, batches_per_epoch: int | None) -> None:
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
        epoch = steps.batch // self._batches_per_epoch if self._batches_per_epoch else None
        count = len(steps)
        self._write(
            [
                pa.array(steps.version_written),
                pa.array(steps.end),
                pa.array(steps.device),
                pa.array(steps.batch),
                _or_nulls(epoch, count, pa.int32()),
                pa.array(steps.version_read),
                pa.array(steps.version_written),
                pa.array(steps.version_written - 1 - steps.version_read),
                _or_nulls(num_samples, count, pa.int64()),
                _or_nulls(loss, count, pa.float64()),
                _or_nulls(metric, count, pa.float64()),
            ]
        )


def _or_nulls(values: NDArray[Any] | None, count: int, sort: Any) -> Any:
    if values is None:
        return pa.nulls(count, sort)
    return pa.array(values, type=sort, from_pandas=True)


def read_spans(path: Path) -> Iterator[SpanColumns]:
    """The blocks of a written spans.parquet."""
    file = pq.ParquetFile(path)
    for index in range(file.num_row_groups):
        yield _columns(file.read_row_group(index))


def _columns(table: pa.Table) -> SpanColumns:
    values: list[Any] = []
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if name in ("kind", "actor"):
            column = column.indices
        elif column.null_count:
            column = column.fill_null(NONE)
        values.append(column.to_numpy(zero_copy_only=False))
    return SpanColumns(*values)
