"""Traces open in Perfetto: valid JSON, true tracks, and honest about what they leave out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mobisim.errors import InputError
from mobisim.report import trace
from mobisim.report.slices import WORK
from mobisim.report.trace import write_trace

Writer = Callable[..., Path]
Event = dict[str, Any]


def _load(path: Path) -> tuple[list[Event], Event]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    return content["traceEvents"], content["otherData"]


def _traced(result: Path, **window: float) -> tuple[list[Event], Event]:
    write_trace(result, result / "trace.json", **window)
    return _load(result / "trace.json")


def _spans(result: Path) -> list[Event]:
    rows: list[Event] = pq.read_table(result / "spans.parquet").to_pylist()
    return rows


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"taps": 6},
        {"num_devices": 5, "workers": 2, "step_s": 0.3},
        {"forward_s": 1 / 3, "encode_s": 1e-9, "transfer_s": 1 / 7},
    ],
    ids=["one", "layer", "fleet", "odd times"],
)
def test_slices_of_a_track_never_overlap(write: Writer, shape: Event) -> None:
    """Work on one track is disjoint to the nanosecond, so that no viewer nests it wrongly."""
    events, _ = _traced(write(**shape))
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            start, lasting = round(event["ts"] * 1000), round(event["dur"] * 1000)
            tracks[event["pid"], event["tid"]].append((start, start + lasting))
    for slices in tracks.values():
        ordered = sorted(slices)
        assert all(a[1] <= b[0] for a, b in pairwise(ordered))


def test_every_span_is_there_once(write: Writer) -> None:
    """Each piece of work is one slice, each wait one pair that opens and closes."""
    result = write()
    events, notes = _traced(result)
    kinds = [span["kind"] for span in _spans(result)]
    phases = [event["ph"] for event in events]
    assert phases.count("X") == sum(kind in WORK for kind in kinds)
    assert phases.count("b") == phases.count("e") == sum(kind not in WORK for kind in kinds)
    assert notes == {
        "num_slices": len(kinds),
        "num_slices_left_out": 0,
        "num_actors_left_out": 0,
    }


def test_overlapping_waits_keep_apart(write: Writer) -> None:
    """Each wait has an identity of its own, so that hundreds in one line do not merge."""
    events, _ = _traced(write(num_batches=100, forward_s=0.01, encode_s=0.001, run_ahead=100))
    opened = [(event["cat"], event["id"]) for event in events if event["ph"] == "b"]
    closed = [(event["cat"], event["id"]) for event in events if event["ph"] == "e"]
    assert len(set(opened)) == len(opened)
    assert sorted(opened) == sorted(closed)


def test_times_are_microseconds(write: Writer) -> None:
    """A forward of 0.4 s lasts 400,000 in the file."""
    events, _ = _traced(write())
    first = next(event for event in events if event.get("cat") == "forward")
    assert (first["ts"], first["dur"], first["name"]) == (0.0, 400_000.0, "forward 0")


def test_arguments_carry_the_columns(write: Writer) -> None:
    """What the table knows of a span stands beside the slice; what it does not know is absent."""
    events, _ = _traced(write())
    by_kind = {event["cat"]: event["args"] for event in events if event["ph"] == "X"}
    assert by_kind["transfer"] == {"device": 0, "batch": 39, "num_bytes": 1_000_000}
    assert by_kind["step"] == {
        "device": 0,
        "batch": 39,
        "version_read": 39,
        "version_written": 40,
    }


def test_cut_work_says_so(write: Writer) -> None:
    """A slice that the horizon ended is marked."""
    events, _ = _traced(write(horizon_s=7.3))
    cut = [event["name"] for event in events if event.get("args", {}).get("cut")]
    assert "transfer 6" in cut


def test_every_track_is_named(write: Writer) -> None:
    """Each track of a slice carries its actor's name and each process its own."""
    events, _ = _traced(write(num_devices=3))
    named = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} <= set(named)
    assert {"device-2", "uplink-2", "server/worker-0"} <= set(named.values())
    processes = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes == {"device 0", "device 1", "device 2", "server"}


def test_server_is_sorted_last(write: Writer) -> None:
    """The server's process comes below every device's."""
    events, _ = _traced(write(num_devices=3))
    order = {e["pid"]: e["args"]["sort_index"] for e in events if e["name"] == "process_sort_index"}
    assert max(order, key=lambda pid: order[pid]) == trace.SERVER_PID


def test_too_many_slices_are_left_out_and_said(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound holds, and file and return value say how many spans it cost."""
    monkeypatch.setattr(trace, "MAX_SLICES", 50)
    result = write(row_group_size=16)
    left_out = write_trace(result, result / "trace.json")
    events, notes = _load(result / "trace.json")
    assert sum(event["ph"] in "Xb" for event in events) == 50
    assert left_out == len(_spans(result)) - 50 == notes["num_slices_left_out"]
    assert f"{left_out} slices" in notes["note"]
    assert any(event["ph"] == "i" and event["name"] == notes["note"] for event in events)


def test_too_many_actors_are_left_out_and_said(write: Writer) -> None:
    """A fleet's trace shows whole devices and the server, and counts the rest."""
    result = write(num_devices=60, num_batches=2)
    left_out = write_trace(result, result / "trace.json")
    events, notes = _load(result / "trace.json")
    shown = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert len(shown) <= 40
    assert {"device-0", "uplink-0", "server/worker-0"} <= shown
    assert notes["num_actors_left_out"] == 182 - 38
    assert notes["num_slices"] + left_out == len(_spans(result))


def test_window_holds_what_touches_it(write: Writer) -> None:
    """A window keeps exactly the spans that touch it, whatever the row groups."""
    result = write(row_group_size=16)
    _, notes = _traced(result, start_s=5.0, end_s=6.0)
    touching = [s for s in _spans(result) if s["end"] >= 5.0 and s["start"] <= 6.0]
    assert notes["num_slices"] == len(touching)


def test_window_shows_every_actor(write: Writer) -> None:
    """Where a window is named, the actors that the whole trace leaves out are there."""
    result = write(num_devices=60, num_batches=2)
    events, notes = _traced(result, end_s=0.5)
    assert "device-59" in {e["args"].get("name") for e in events if e["name"] == "thread_name"}
    assert notes["num_actors_left_out"] == 0


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ({"start_s": 2.0, "end_s": 1.0}, "window of the trace is empty"),
        ({"start_s": 1e6}, "no span lies in that window"),
        ({"start_s": float("nan"), "end_s": 1.0}, "window of the trace is empty"),
    ],
)
def test_window_without_spans_is_refused(write: Writer, window: Event, words: str) -> None:
    """A window that shows nothing is an error, and writes nothing."""
    result = write()
    with pytest.raises(InputError, match=words):
        write_trace(result, result / "trace.json", **window)
    assert not (result / "trace.json").exists()


def test_run_that_never_started_has_an_empty_trace(write: Writer) -> None:
    """A run that does not fit has no spans; its trace is valid and empty."""
    result = write(num_batches=0)
    assert write_trace(result, result / "trace.json") == 0
    assert _load(result / "trace.json")[1]["num_slices"] == 0


def test_trace_is_deterministic(write: Writer) -> None:
    """The same result gives the same bytes."""
    result = write(num_devices=3)
    for name in ("one.json", "two.json"):
        write_trace(result, result / name)
    assert (result / "one.json").read_bytes() == (result / "two.json").read_bytes()
