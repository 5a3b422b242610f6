from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from worlds import columns_of, device, stated, world_of

from mobisim.report.tables import SPANS, STEPS, SpanWriter, StepWriter, read_spans
from mobisim.span import NONE, STEP, SpanColumns
from mobisim.world import World

PUBLISHED_SPANS = """\
kind: dictionary<values=string, indices=int32, ordered=0> not null
actor: dictionary<values=string, indices=int32, ordered=0> not null
start: double not null
end: double not null
device: int32
batch: int64
tap: int16
num_bytes: int64
version_read: int64
version_written: int64
cut: bool not null
energy_j: double"""

PUBLISHED_STEPS = """\
step: int64 not null
end: double not null
device: int32
batch: int64 not null
epoch: int32
version_read: int64 not null
version_written: int64 not null
staleness: int64 not null
num_samples: int64
loss: double
metric: double"""


def world(num_batches: int = 20) -> World:
    """A world whose spans fill every column but those of downloads."""
    group = device(0.4, encode_s=0.1, latency="50 ms", run_ahead=2)
    layered: dict[str, Any] = {"granularity": "layer", "side_network": {"taps": [1, 2]}}
    return world_of(stated(num_batches, group, step_s=0.3, horizon="15 s", **layered))


def write(path: Path, columns: SpanColumns, *, num_rows: int = 1000) -> None:
    """A spans.parquet in row groups of so many rows."""
    with SpanWriter(path, world().actors.names) as writer:
        for at in range(0, len(columns), num_rows):
            writer.add(columns[at : at + num_rows])


def test_the_published_schema_of_spans_is_what_it_was() -> None:
    """Readers of old results rely on it."""
    assert SPANS.to_string(show_field_metadata=False) == PUBLISHED_SPANS


def test_the_published_schema_of_steps_is_what_it_was() -> None:
    """Readers of old results rely on it."""
    assert STEPS.to_string(show_field_metadata=False) == PUBLISHED_STEPS


def test_spans_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    """Every column, whatever the row groups."""
    columns = columns_of(world())
    write(tmp_path / "spans.parquet", columns, num_rows=7)
    blocks = list(read_spans(tmp_path / "spans.parquet"))
    assert len(blocks) == -(-len(columns) // 7)
    for name in vars(columns):
        found = getattr(SpanColumns.concatenate(blocks), name)
        np.testing.assert_array_equal(found, getattr(columns, name))
        assert found.dtype == getattr(columns, name).dtype


def test_names_stand_for_codes_and_nulls_for_nothing(tmp_path: Path) -> None:
    """The file explains itself."""
    columns = columns_of(world())
    write(tmp_path / "spans.parquet", columns)
    rows = pq.read_table(tmp_path / "spans.parquet").to_pylist()
    assert rows[0]["kind"] == "forward"
    assert rows[0]["actor"] == "device-0"
    assert rows[0]["version_read"] is None
    assert [row["num_bytes"] for row in rows] == [
        None if size == NONE else size for size in columns.num_bytes.tolist()
    ]
    assert [row["cut"] for row in rows] == columns.cut.tolist()


def test_a_table_without_rows_can_be_read(tmp_path: Path) -> None:
    """A scenario that does not fit has no spans, and still a whole result."""
    with SpanWriter(tmp_path / "spans.parquet", ("device-0",)) as writer:
        writer.add(SpanColumns.from_rows([]))
    assert sum(map(len, read_spans(tmp_path / "spans.parquet"))) == 0


def test_steps_have_one_row_each_in_the_order_of_versions(tmp_path: Path) -> None:
    """Epochs follow from the mini-batch; NaN and absence are null."""
    columns = columns_of(world())
    steps = columns[(columns.kind == STEP) & ~columns.cut]
    loss = np.arange(len(steps), dtype=float)
    loss[1] = np.nan
    with StepWriter(tmp_path / "steps.parquet", batches_per_epoch=np.full(9, 4)) as writer:
        writer.add(columns, loss=loss)
    rows = pq.read_table(tmp_path / "steps.parquet").to_pylist()
    assert [row["step"] for row in rows] == list(range(1, len(steps) + 1))
    assert [row["epoch"] for row in rows] == [batch // 4 for batch in steps.batch.tolist()]
    assert [row["end"] for row in rows] == steps.end.tolist()
    assert [row["loss"] for row in rows[:3]] == [0.0, None, 2.0]
    assert {row["metric"] for row in rows} == {row["num_samples"] for row in rows} == {None}
    assert {row["staleness"] for row in rows} == {0}


def test_a_step_of_no_device_has_no_epoch(tmp_path: Path) -> None:
    """It repeats what the server has kept; the last device may own no mini-batch at all."""
    columns = columns_of(world())
    nobodys = replace(columns, device=np.full(len(columns), NONE, columns.device.dtype))
    with StepWriter(tmp_path / "steps.parquet", batches_per_epoch=np.array([4, 0])) as writer:
        writer.add(nobodys)
    rows = pq.read_table(tmp_path / "steps.parquet").to_pylist()
    assert rows
    assert {row["epoch"] for row in rows} == {row["device"] for row in rows} == {None}


def test_a_step_that_is_cut_is_no_step(tmp_path: Path) -> None:
    """It wrote no version."""
    columns = columns_of(world())
    cut = columns[columns.cut]
    with StepWriter(tmp_path / "steps.parquet", batches_per_epoch=None) as writer:
        writer.add(cut)
    assert pq.read_table(tmp_path / "steps.parquet").num_rows == 0


def test_equal_spans_give_equal_bytes(tmp_path: Path) -> None:
    """So that results can be compared as files."""
    columns = columns_of(world())
    for name in ("a", "b"):
        write(tmp_path / name, columns, num_rows=9)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
