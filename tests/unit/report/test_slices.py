"""Slices come out of the table lazily, in order, and only those in view."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mobisim.report.slices import (
    Slice,
    View,
    actor_rank,
    count_slices,
    device_of,
    pick_actors,
    read_slices,
    role_of,
)

Writer = Callable[..., Path]


@pytest.mark.parametrize("row_group_size", [7, 10_000])
def test_view_is_exact(write: Writer, row_group_size: int) -> None:
    """Skipping row groups by their statistics never loses or adds a row."""
    spans = write(row_group_size=row_group_size) / "spans.parquet"
    view = View(("uplink-0", "device-0"), 4.0, 9.5)
    expected = [
        row
        for row in pq.read_table(spans).to_pylist()
        if row["actor"] in ("uplink-0", "device-0") and row["end"] >= 4.0 and row["start"] <= 9.5
    ]
    shown = [{key: row[key] for key in Slice._fields} for row in expected]
    assert [span._asdict() for span in read_slices(spans, view)] == shown
    assert count_slices(spans, view) == len(expected)


def test_row_groups_out_of_view_are_not_read(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first seconds of a long run cost the first row groups only."""
    spans = write(num_batches=500, row_group_size=100) / "spans.parquet"
    asked: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, rows: int, row_groups: list[int], columns: list[str]) -> object:
        asked.extend(row_groups)
        return iter_batches(self, rows, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    first = list(islice(read_slices(spans, View(end=3.0)), 1000))
    assert max(span.start for span in first) <= 3.0
    assert len(asked) < pq.ParquetFile(spans).num_row_groups / 5


def test_few_actors_are_all_picked() -> None:
    """Below the bound every actor is there: devices by number with their links, then the server."""
    actors = ["device-10", "device-2", "uplink-2", "uplink-10", "server", "server/worker-0"]
    assert pick_actors(actors) == (
        "device-2",
        "uplink-2",
        "device-10",
        "uplink-10",
        "server",
        "server/worker-0",
    )


@pytest.mark.parametrize(("devices", "workers"), [(100, 1), (3, 100), (100, 100), (1, 41)])
def test_picked_actors_respect_the_bound(devices: int, workers: int) -> None:
    """However many there are, at most forty are picked, devices and workers both among them."""
    fleet = [f"{role}-{n}" for role in ("device", "uplink", "downlink") for n in range(devices)]
    crew = [f"server/worker-{n}" for n in range(workers)]
    picked = pick_actors([*fleet, "server", *crew])
    assert len(picked) <= 40
    assert {"device-0", "uplink-0", "downlink-0", "server", "server/worker-0"} <= set(picked)


def test_device_stays_with_its_links() -> None:
    """Where the bound cuts a fleet, no device loses its links."""
    fleet = [f"{role}-{n}" for role in ("device", "uplink", "downlink") for n in range(50)]
    picked = pick_actors([*fleet, "server", "server/worker-0"])
    devices = {device_of(actor) for actor in picked} - {None}
    assert all({f"device-{n}", f"uplink-{n}", f"downlink-{n}"} <= set(picked) for n in devices)


def test_every_group_of_a_fleet_is_seen() -> None:
    """Devices are numbered group by group, and the slow ones may well be the last."""
    fleet = [f"{role}-{n}" for role in ("device", "uplink") for n in range(60)]
    picked = {device_of(actor) for actor in pick_actors([*fleet, "server", "server/worker-0"])}
    assert {0, 59} <= picked
    assert all(picked & set(range(start, start + 8)) for start in range(0, 60, 8))


def test_names_tell_roles() -> None:
    """An actor's name says what it is and whose."""
    roles = [role_of(name) for name in ("device-3", "uplink-3", "downlink-3", "server/worker-3")]
    assert roles == ["device", "uplink", "downlink", "server"]
    assert [device_of(name) for name in ("uplink-12", "server")] == [12, None]
    assert actor_rank("server/worker-9") < actor_rank("server/worker-10")
