"""Traces: the spans of a result as a JSON file that Perfetto and Chrome open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from mobisim.errors import InputError
from mobisim.report.slices import (
    MAX_SLICES,
    WORK,
    Slice,
    View,
    count_slices,
    device_of,
    pick_actors,
    read_slices,
)

Event = dict[str, Any]

SERVER_PID = 1
NS_PER_S = 1e9


def write_trace(
    result_dir: Path, out: Path, *, start_s: float | None = None, end_s: float | None = None
) -> int:
    """Write the spans between `start_s` and `end_s` to `out`; how many did not fit.

    The whole run is bounded to MAX_SLICES spans of MAX_ACTORS actors; a window to MAX_SLICES
    spans. "otherData" in the file says what was left out. Work is one slice on its actor's own
    track; waiting overlaps and therefore goes to tracks of its own.

    Raises:
        InputError: the window is empty or holds no span.
    """
    actors: list[str] = json.loads((result_dir / "manifest.json").read_text("utf-8"))["actors"]
    view, spans = _view(actors, start_s, end_s), result_dir / "spans.parquet"
    slices = _not_empty(read_slices(spans, view), view)
    with out.open("w", encoding="utf-8", newline="\n") as file:
        writer = _Writer(file, actors)
        for span in islice(slices, MAX_SLICES):
            writer.add(span)
        num_actors = len(actors) if view.actors is None else len(view.actors)
        cut = _left_out(spans, view, writer.num_slices, all_actors=num_actors == len(actors))
        writer.close({"num_slices_left_out": cut, "num_actors_left_out": len(actors) - num_actors})
    return cut


def _view(actors: Sequence[str], start_s: float | None, end_s: float | None) -> View:
    if start_s is None and end_s is None:
        return View(pick_actors(actors))
    view = View(
        start=float("-inf") if start_s is None else start_s,
        end=float("inf") if end_s is None else end_s,
    )
    if not view.start < view.end:
        raise InputError("the window of the trace is empty", expected="--from before --to")
    return view


def _not_empty(slices: Iterator[Slice], view: View) -> Iterator[Slice]:
    first = next(slices, None)
    if first is not None:
        return chain([first], slices)
    if view.actors is None:
        raise InputError("no span lies in that window", hint="choose another --from and --to")
    return slices


def _left_out(spans: Path, view: View, num_written: int, *, all_actors: bool) -> int:
    if num_written < MAX_SLICES and all_actors:
        return 0
    return count_slices(spans, View(None, view.start, view.end)) - num_written


class _Writer:
    """Streams events into one JSON object, so that a long trace never lies in memory."""

    def __init__(self, file: TextIO, actors: Sequence[str]) -> None:
        self.file = file
        self.places = {actor: place for place, actor in enumerate(actors, start=1)}
        self.num_slices = 0
        self.last_end = 0.0
        self.named: set[str | int] = set()
        self.separator = "\n"
        file.write('{"displayTimeUnit": "ms",\n"traceEvents": [')

    def add(self, span: Slice) -> None:
        """Write one span, and the names of its track where it is the first there."""
        self.num_slices += 1
        self.last_end = span.end
        for event in (*self._names(span.actor), *self._events(span)):
            self._write(event)

    def close(self, left_out: dict[str, int]) -> None:
        """The end of the file, which says how much it holds."""
        notes = _notes(self.num_slices, left_out)
        if left_out["num_slices_left_out"]:
            self._write(_marker(self.last_end, notes["note"]))
        self.file.write(f'\n],\n"otherData": {_text(notes)}}}\n')

    def _write(self, event: Event) -> None:
        self.file.write(self.separator + _text(event))
        self.separator = ",\n"

    def _names(self, actor: str) -> Iterator[Event]:
        pid, tid = _pid(actor), self.places[actor]
        if pid not in self.named:
            self.named.add(pid)
            yield from _process(pid, last=len(self.places) + 2)
        if actor not in self.named:
            self.named.add(actor)
            yield _metadata("thread_name", pid, tid, {"name": actor})
            yield _metadata("thread_sort_index", pid, tid, {"sort_index": tid})

    def _events(self, span: Slice) -> list[Event]:
        pid, tid = _pid(span.actor), self.places[span.actor]
        start, end = _ns(span.start), _ns(span.end)
        common = {"cat": span.kind, "pid": pid, "tid": tid}
        if span.kind in WORK:
            return [
                {"name": _name(span), "ph": "X", "ts": start / 1e3, "dur": (end - start) / 1e3}
                | common
                | {"args": _args(span)}
            ]
        # One name for all: Perfetto then lays overlapping waits out as the rows of one group.
        common |= {"name": f"{span.actor} {span.kind}", "id": str(self.num_slices)}
        return [
            {"ph": "b", "ts": start / 1e3} | common | {"args": _args(span)},
            {"ph": "e", "ts": end / 1e3} | common,
        ]


def _ns(seconds: float) -> int:
    # Whole nanoseconds: end = start + duration then stays exact, and neighbours never overlap.
    return round(seconds * NS_PER_S)


def _pid(actor: str) -> int:
    number = device_of(actor)
    return SERVER_PID if number is None else SERVER_PID + 1 + number


def _name(span: Slice) -> str:
    batch = "" if span.batch is None else f" {span.batch}"
    return f"{span.kind}{batch}" + ("" if span.tap is None else f" tap {span.tap}")


def _args(span: Slice) -> Event:
    names = ("device", "batch", "tap", "num_bytes", "version_read", "version_written")
    args = {name: getattr(span, name) for name in names if getattr(span, name) is not None}
    return args | ({"cut": True} if span.cut else {})


def _process(pid: int, last: int) -> Iterator[Event]:
    server = pid == SERVER_PID
    name = "server" if server else f"device {pid - SERVER_PID - 1}"
    yield _metadata("process_name", pid, 0, {"name": name})
    yield _metadata("process_sort_index", pid, 0, {"sort_index": last if server else pid})


def _metadata(name: str, pid: int, tid: int, args: Event) -> Event:
    return {"name": name, "ph": "M", "pid": pid, "tid": tid, "args": args}


def _marker(end: float, note: str) -> Event:
    where = {"ts": _ns(end) / 1e3, "pid": SERVER_PID, "tid": 0}
    return {"name": note, "ph": "i", "s": "g", **where}


def _notes(num_slices: int, left_out: dict[str, int]) -> Event:
    notes: Event = {"num_slices": num_slices, **left_out}
    if any(left_out.values()):
        notes["note"] = (
            f"not all is here: {left_out['num_slices_left_out']} slices and "
            f"{left_out['num_actors_left_out']} actors were left out; "
            "`mobisim trace RESULT --from --to` writes another window"
        )
    return notes


def _text(event: Event) -> str:
    return json.dumps(event, allow_nan=False, ensure_ascii=False)
