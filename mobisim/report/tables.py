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


def _column(name: str, sort: pa.DataType, meaning: str, *, filled: bool = False) -> pa.Field:
    """A column that says in the file itself what it holds."""
    return pa.field(name, sort, nullable=not filled, metadata={"meaning": meaning})


SPANS = pa.schema(
    [
        _column("kind", _NAME, "what sort of work or wait this is", filled=True),
        _column("actor", _NAME, "who works, or where is waited", filled=True),
        _column("start", pa.float64(), "simulated seconds", filled=True),
        _column("end", pa.float64(), "simulated seconds", filled=True),
        _column("device", pa.int32(), "whose mini-batch it is"),
        _column("batch", pa.int64(), "the mini-batch's number among its device's"),
        _column("tap", pa.int16(), "the tapped layer, with layer granularity"),
        _column("num_bytes", pa.int64(), "bytes that the link carried, packet overhead included"),
        _column("version_read", pa.int64(), "the version of what is trained that it began from"),
        _column("version_written", pa.int64(), "the version that a finished step made"),
        _column("cut", pa.bool_(), "whether it ended before it was done", filled=True),
        _column("energy_j", pa.float64(), "joules of the device, where powers are known"),
    ]
)

STEPS = pa.schema(
    [
        _column("step", pa.int64(), "its number, from 1, in the order of ends", filled=True),
        _column("end", pa.float64(), "simulated seconds", filled=True),
        _column("device", pa.int32(), "whose mini-batch it took; null in replays and averages"),
        _column("batch", pa.int64(), "the mini-batch's number among its device's", filled=True),
        _column("epoch", pa.int32(), "how often the device had been through its samples"),
        _column("version_read", pa.int64(), "the version that it began from", filled=True),
        _column("version_written", pa.int64(), "the version that it made", filled=True),
        _column(
            "staleness", pa.int64(), "versions made since the (stalest) one it read", filled=True
        ),
        _column("num_samples", pa.int64(), "samples of the mini-batch, where they are known"),
        _column("loss", pa.float64(), "training loss of the mini-batch"),
        _column("metric", pa.float64(), "the evaluation after the step, where there was one"),
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
            mine = steps[owned]
            epoch[owned] = mine.batch // self._batches_per_epoch[mine.device]
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
