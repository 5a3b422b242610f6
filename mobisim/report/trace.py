"""Traces: the spans of a result as a JSON file that Perfetto and Chrome open."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
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

    At most MAX_SLICES spans of MAX_ACTORS actors are written; "otherData" in the file says what
    was left out. Work is one slice on its actor's own track; waiting overlaps and therefore goes
    to tracks of its own.

    Raises:
        InputError: the window is empty or holds no span.
    """
    actors: list[str] = json.loads((result_dir / "manifest.json").read_text("utf-8"))["actors"]
    view = _view(actors, start_s, end_s)
    spans = result_dir / "spans.parquet"
    writer = _Writer(view)
    with out.open("w", encoding="utf-8", newline="\n") as file:
        writer.write(file, islice(read_slices(spans, view), MAX_SLICES))
        _refuse_nothing(writer, view)
        cut = _left_out(spans, actors, view, writer.num_slices)
        writer.close(file, {**cut, "num_actors_left_out": len(actors) - len(view.actors)})
    return cut["num_slices_left_out"]


def _view(actors: Sequence[str], start_s: float | None, end_s: float | None) -> View:
    view = View(
        pick_actors(actors),
        float("-inf") if start_s is None else start_s,
        float("inf") if end_s is None else end_s,
    )
    if not view.start < view.end:
        raise InputError("the window of the trace is empty", expected="--from before --to")
    return view


def _left_out(spans: Path, actors: Sequence[str], view: View, num_written: int) -> dict[str, int]:
    if num_written < MAX_SLICES and len(actors) == len(view.actors):
        return {"num_slices_left_out": 0}
    everyone = View(tuple(actors), view.start, view.end)
    return {"num_slices_left_out": count_slices(spans, everyone) - num_written}


def _refuse_nothing(writer: _Writer, view: View) -> None:
    whole = view.start == float("-inf") and view.end == float("inf")
    if writer.num_slices == 0 and not whole:
        raise InputError("no span lies in that window", hint="choose another --from and --to")


@dataclass
class _Writer:
    """Streams events into one JSON object, so that a long trace never lies in memory."""

    view: View
    num_slices: int = 0
    last_end: float = 0.0
    tracks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tracks = {
            actor: (_pid(actor), tid) for tid, actor in enumerate(self.view.actors, start=1)
        }

    def write(self, file: TextIO, slices: Iterator[Slice]) -> None:
        """Everything up to the last slice."""
        file.write('{"displayTimeUnit": "ms",\n"traceEvents": [\n')
        events = [*_processes(self.view.actors), *_threads(self.tracks)]
        file.write(",\n".join(map(_text, events)))
        for span in slices:
            self.num_slices += 1
            self.last_end = span.end
            file.writelines(",\n" + _text(event) for event in self._events(span))

    def close(self, file: TextIO, left_out: dict[str, int]) -> None:
        """The end of the file, which says how much it holds."""
        notes = _notes(self.num_slices, left_out)
        if left_out["num_slices_left_out"]:
            file.write(",\n" + _text(_marker(self.last_end, notes["note"])))
        file.write(f'\n],\n"otherData": {_text(notes)}}}\n')

    def _events(self, span: Slice) -> list[Event]:
        pid, tid = self.tracks[span.actor]
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


def _processes(actors: Sequence[str]) -> Iterator[Event]:
    for pid in sorted({_pid(actor) for actor in actors}):
        server = pid == SERVER_PID
        name = "server" if server else f"device {pid - SERVER_PID - 1}"
        order = len(actors) + 1 + max(map(_pid, actors)) if server else pid
        yield _metadata("process_name", pid, 0, {"name": name})
        yield _metadata("process_sort_index", pid, 0, {"sort_index": order})


def _threads(tracks: dict[str, tuple[int, int]]) -> Iterator[Event]:
    for actor, (pid, tid) in tracks.items():
        yield _metadata("thread_name", pid, tid, {"name": actor})
        yield _metadata("thread_sort_index", pid, tid, {"sort_index": tid})


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
