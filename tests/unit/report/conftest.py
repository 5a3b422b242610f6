"""Synthetic results: a hand-made pipeline, written as the files that a finished run leaves."""

from __future__ import annotations

import heapq
import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobisim.report.tables import SPANS, STEPS

Row = dict[str, Any]
WORK = {"forward", "encode", "transfer", "decode", "side_forward", "step", "download"}


@dataclass(frozen=True)
class Pipeline:
    """A run with fixed times; `taps` above zero sends each tap as soon as it is computed."""

    name: str = "toy_pipeline"
    num_devices: int = 1
    num_batches: int = 40
    forward_s: float = 0.4
    encode_s: float = 0.05
    transfer_s: float = 1.0
    latency_s: float = 0.02
    step_s: float = 0.2
    run_ahead: int = 4
    workers: int = 1
    taps: int = 0
    horizon_s: float = math.inf
    trained: bool = True
    target: float | None = 0.9
    summary: dict[str, Any] = field(default_factory=dict)


class _Run:
    """The pipeline on a bare heap: enough to draw, not the truth to test simulators against."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.p, self.now, self.agenda, self.order = pipeline, 0.0, [], count()  # type: ignore[var-annotated]
        self.rows: list[Row] = []
        self.steps: list[Row] = []
        devices = range(pipeline.num_devices)
        self.started_steps = dict.fromkeys(devices, 0)
        self.forwarded = dict.fromkeys(devices, 0)
        self.idle_since: dict[int, float | None] = dict.fromkeys(devices, 0.0)
        self.link_queue: dict[int, deque[Row]] = {d: deque() for d in devices}
        self.link_busy = dict.fromkeys(devices, False)
        self.server_queue: deque[Row] = deque()
        self.free = [(0.0, w) for w in range(pipeline.workers)]
        self.pieces = max(1, pipeline.taps)

    def after(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.agenda, (self.now + delay, next(self.order), act))

    def span(self, kind: str, actor: str, start: float, **more: Any) -> None:
        if self.now > start or kind in WORK:
            self.rows.append({"kind": kind, "actor": actor, "start": start, "end": self.now} | more)

    def run(self) -> None:
        for device in self.idle_since:
            self.try_forward(device)
        while self.agenda:
            self.now, _, act = heapq.heappop(self.agenda)
            act()

    def try_forward(self, d: int) -> None:
        k, since = self.forwarded[d], self.idle_since[d]
        ahead = k - self.p.run_ahead
        if since is None or k == self.p.num_batches or self.started_steps[d] <= ahead:
            return
        self.span("wait", f"device-{d}", since, device=d)
        self.idle_since[d] = None
        self.forwarded[d] += 1
        self.forward(d, k, 0)

    def forward(self, d: int, k: int, piece: int) -> None:
        start = self.now

        def encode() -> None:
            self.span("forward", f"device-{d}", start, **self.payload(d, k, piece))
            self.after(self.p.encode_s / self.pieces, lambda: self.send(d, k, piece, self.now))

        def begin() -> None:
            encode()

        self.after(self.p.forward_s / self.pieces, begin)

    def payload(self, d: int, k: int, piece: int) -> Row:
        return {"device": d, "batch": k, "tap": piece + 1 if self.p.taps else None}

    def send(self, d: int, k: int, piece: int, _: float) -> None:
        start = self.now - self.p.encode_s / self.pieces
        payload = self.payload(d, k, piece)
        self.span("encode", f"device-{d}", start, **payload)
        self.link_queue[d].append(payload | {"since": self.now, "last": piece == self.pieces - 1})
        self.try_link(d)
        if piece < self.pieces - 1:
            self.forward(d, k, piece + 1)
        else:
            self.idle_since[d] = self.now
            self.try_forward(d)

    def try_link(self, d: int) -> None:
        if self.link_busy[d] or not self.link_queue[d]:
            return
        item = self.link_queue[d].popleft()
        last, since = item.pop("last"), item.pop("since")
        self.span("queue", f"uplink-{d}", since, **item)
        self.link_busy[d] = True
        start = self.now

        def done() -> None:
            size = 1_000_000 // self.pieces
            self.span("transfer", f"uplink-{d}", start, num_bytes=size, **item)
            self.link_busy[d] = False
            sent = self.now
            self.after(self.p.latency_s, lambda: self.arrive(item, last=last, sent=sent))
            self.try_link(d)

        self.after(self.p.transfer_s / self.pieces, done)

    def arrive(self, item: Row, *, last: bool, sent: float) -> None:
        self.span("latency", f"uplink-{item['device']}", sent, **item)
        self.server_queue.append(item | {"since": self.now, "last": last})
        self.try_step()

    def try_step(self) -> None:
        if not self.free or not self.server_queue:
            return
        item = self.server_queue.popleft()
        last, since = item.pop("last"), item.pop("since")
        idle, worker = heapq.heappop(self.free)
        actor = f"server/worker-{worker}"
        self.span("wait", actor, idle)
        self.span("queue", "server", since, **item)
        start, share = self.now, self.p.step_s / 3 / self.pieces
        if last:
            self.started_steps[item["device"]] += 1
            self.try_forward(item["device"])

        def done() -> None:
            kind = "side_forward" if self.p.taps else "step"
            if self.p.taps and last:
                self.span("side_forward", actor, start, **item)
                self.after(self.p.step_s - share, lambda: self.finish(actor, worker, item))
                return
            self.record(kind, actor, start, item)
            self.release(worker)

        self.after(share if self.p.taps else self.p.step_s, done)

    def finish(self, actor: str, worker: int, item: Row) -> None:
        share = self.p.step_s / 3 / self.pieces
        self.record("step", actor, self.now - (self.p.step_s - share), item | {"tap": None})
        self.release(worker)

    def record(self, kind: str, actor: str, start: float, item: Row) -> None:
        number = len(self.steps)
        versions = {"version_read": number, "version_written": number + 1} if kind == "step" else {}
        self.span(kind, actor, start, **item, **versions)
        if kind == "step":
            place = {"device": item["device"], "batch": item["batch"]}
            self.steps.append({"step": number, "end": self.now, "staleness": 0} | place | versions)

    def release(self, worker: int) -> None:
        heapq.heappush(self.free, (self.now, worker))
        self.try_step()


def _cut(rows: list[Row], horizon: float) -> Iterator[Row]:
    for row in rows:
        if row["start"] < horizon:
            cut = row["end"] > horizon
            yield row | {"end": min(row["end"], horizon), "cut": cut}


def _learn(steps: list[Row], pipeline: Pipeline) -> Iterator[Row]:
    every = max(1, len(steps) // 12)
    for step in steps:
        number = step["step"] + 1
        progress = 1 - math.exp(-3.5 * number / len(steps))
        wobble = 0.03 * math.sin(12.9898 * number)
        evaluated = number % every == 0 or number == len(steps)
        yield step | {
            "epoch": 0,
            "num_samples": 16,
            "loss": 0.7 - 0.6 * progress + wobble if pipeline.trained else None,
            "metric": 0.55 + 0.4 * progress if pipeline.trained and evaluated else None,
        }


def _actors(pipeline: Pipeline) -> list[str]:
    devices = range(pipeline.num_devices)
    workers = [f"server/worker-{w}" for w in range(pipeline.workers)]
    return [
        *(f"device-{d}" for d in devices),
        *(f"uplink-{d}" for d in devices),
        *(f"downlink-{d}" for d in devices),
        "server",
        *workers,
    ]


def _breakdown(rows: list[Row], pipeline: Pipeline) -> dict[str, float]:
    total: dict[str, float] = {}
    for row in rows:
        where = row["actor"].split("-")[0].split("/")[0]
        kind = row["kind"]
        key = f"{where}_{kind}" if kind in ("queue", "wait") else kind
        total[key] = total.get(key, 0.0) + row["end"] - row["start"]
    num = max(1, pipeline.num_batches * pipeline.num_devices)
    names = ("forward", "encode", "uplink_queue", "transfer", "latency", "server_queue")
    return {name: total.get(name, 0.0) / num for name in (*names, "decode", "step", "device_wait")}


def _summary(pipeline: Pipeline, rows: list[Row], steps: list[Row]) -> dict[str, Any]:
    makespan = max((row["end"] for row in rows), default=None)
    busy = dict.fromkeys(_actors(pipeline), 0.0)
    for row in rows:
        if row["kind"] in WORK:
            busy[row["actor"]] += row["end"] - row["start"]
    evaluations = [s for s in steps if s["metric"] is not None]
    goal = pipeline.target if pipeline.trained else None
    reached = [s["end"] for s in evaluations if goal is not None and s["metric"] >= goal]
    sent = sum(row["num_bytes"] or 0 for row in rows if row["kind"] == "transfer")
    whole = makespan or 0.0
    blame = {"device": 0.02, "uplink": 0.93, "latency": 0.01, "server": 0.03, "downlink": 0.01}
    return {
        "schema_version": 1,
        "name": pipeline.name,
        "digest": "3f2a9c1b77d0e4aa",
        "seed": 0,
        "method": "mobillm",
        "model": "opt-350m",
        "granularity": "layer" if pipeline.taps else "batch",
        "ended_by": "finished" if math.isinf(pipeline.horizon_s) else "horizon",
        "makespan_s": makespan,
        "num_batches": pipeline.num_batches * pipeline.num_devices,
        "num_steps": len(steps),
        "uplink_bytes": round(sent * 1.04),
        "uplink_payload_bytes": sent,
        "downlink_bytes": 12_700_000,
        "target": {"metric": "accuracy", "value": goal} if goal is not None else None,
        "time_to_target_s": reached[0] if reached else None,
        "metric_name": "accuracy" if pipeline.trained else None,
        "initial_metric": 0.52 if pipeline.trained else None,
        "final_metric": evaluations[-1]["metric"] if evaluations else None,
        "bottleneck": "uplink",
        "blame_s": {part: share * whole for part, share in blame.items()},
        "step_breakdown_s": _breakdown(rows, pipeline),
        "utilisation": {a: s / whole for a, s in busy.items() if a != "server"} if whole else {},
        "device_peak_bytes": 1_270_000_000,
        "device_capacity_bytes": 8_140_000_000,
        "device_fits": True,
        "device_short_bytes": None,
        "device_memory_bytes": {
            "weights": 662_400_000,
            "transient": 104_000_000,
            "taps": 50_300_000,
            "encode": 2_100_000,
            "queue": 12_900_000,
            "runtime": 438_300_000,
        },
        "server_peak_bytes": 900_000_000,
        "server_capacity_bytes": 85_000_000_000,
        "server_fits": True,
        "server_memory_bytes": None,
        "energy_j": 412.0,
        "energy_parts_j": {"compute": 240.0, "radio": 60.0, "idle": 112.0},
        "padding_fraction": 0.61,
        "stand_in": {"trained": "builtin", "timed": "opt-350m"} if pipeline.trained else None,
        "provenance_counts": {"measured": 4, "published": 9, "assumed": 7, "stated": 5},
        "extrapolated": [],
        "warnings": [],
    } | pipeline.summary


def _manifest(pipeline: Pipeline) -> dict[str, Any]:
    group = {
        "profile": {"name": "jetson-xavier-nx", "kind": "roofline"},
        "link": {"name": "wifi-5mbps", "kind": "constant"},
        "count": pipeline.num_devices,
    }
    server = {"profile": {"name": "a100-80gb"}, "workers": pipeline.workers}
    scenario = {"model": {"name": "opt-350m"}, "devices": [group], "server": server}
    return {
        "name": pipeline.name,
        "digest": "3f2a9c1b77d0e4aa",
        "seed": 0,
        "version": "0.1.0",
        "command": "mobisim run",
        "scenario": scenario,
        "actors": _actors(pipeline),
        "provenance": [],
        "versions": {},
    }


def write_result(where: Path, pipeline: Pipeline, *, row_group_size: int = 10_000) -> Path:
    """The four files of `pipeline` in the new directory `where`."""
    run = _Run(pipeline)
    run.run()
    empty: Row = dict.fromkeys(SPANS.names)
    rows = [empty | row for row in _cut(run.rows, pipeline.horizon_s)]
    done = [step for step in run.steps if step["end"] <= pipeline.horizon_s]
    steps = [dict.fromkeys(STEPS.names) | step for step in _learn(done, pipeline)]
    where.mkdir(parents=True)
    for name, table in (
        ("spans", pa.Table.from_pylist(rows, SPANS)),
        ("steps", pa.Table.from_pylist(steps, STEPS)),
    ):
        pq.write_table(table, where / f"{name}.parquet", row_group_size=row_group_size)
    for name, content in (
        ("summary", _summary(pipeline, rows, steps)),
        ("manifest", _manifest(pipeline)),
    ):
        (where / f"{name}.json").write_text(json.dumps(content, indent=1), "utf-8")
    return where


Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes the result of a pipeline, given by the fields in which it differs from the default."""
    number = count()

    def writer(*, row_group_size: int = 10_000, **fields: Any) -> Path:
        where = tmp_path / f"result-{next(number)}"
        return write_result(where, Pipeline(**fields), row_group_size=row_group_size)

    return writer


@pytest.fixture
def summary(write: Writer) -> dict[str, Any]:
    """The summary of the default pipeline."""
    content: dict[str, Any] = json.loads((write() / "summary.json").read_text("utf-8"))
    return content
